"""Imported by a fork server alone, before anything else: it ends with the process that started it.

A fork server's children hold its own pipe open, so that it would live as long as they do (Python 3.11).
"""

from pbrl.processes import kill_with_starter

kill_with_starter()
