"""What a configuration needs of a GPU, computed before anything is loaded: memory and hours."""
