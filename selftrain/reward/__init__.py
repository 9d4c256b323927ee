"""A process reward model: labels of steps, its training, and its judgement of responses."""
