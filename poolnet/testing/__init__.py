"""A simulated network for poolnet's tests and those of programs built on it."""
