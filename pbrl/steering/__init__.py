"""Steering a planner by words, and live on a page: parts of `python -m pbrl.steer`."""
