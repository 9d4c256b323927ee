"""What leaves a run for other programs: weights with a card, training rows, prompts, the judge as a reward."""
