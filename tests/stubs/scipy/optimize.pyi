"""What pyright takes for scipy.optimize: to infer that `linprog` returns a dictionary is an eighth of its time."""

from typing import Any

def __getattr__(name: str) -> Any: ...
