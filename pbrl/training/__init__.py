"""What trains: the loop, batches, replicas, evaluation and the log."""
