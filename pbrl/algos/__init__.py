"""Learners of policies, one per file."""
