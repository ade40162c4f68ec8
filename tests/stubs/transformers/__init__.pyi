"""What pyright takes for transformers: to look into its sources is a third of its time, and says little of ours."""

from typing import Any

def __getattr__(name: str) -> Any: ...
