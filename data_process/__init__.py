"""Text to text: problems, prompts, judging, building of training data. Never imports torch."""
