"""Preference-based reinforcement learning for robots."""

__version__ = "0.1.0"
