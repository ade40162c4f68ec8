"""Feedback sources, one file each."""
