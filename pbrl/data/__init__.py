"""Episodes: made, read, written, and as a table of tensors."""
