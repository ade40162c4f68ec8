"""Models of rewards, one per file."""
