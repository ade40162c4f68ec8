"""A store's address: what is shown and written of it has no password, and what needs one finds it again."""

import os
import re
from pathlib import Path

VARIABLE = "PBRL_STORE"  # in the environment: the whole address, for processes that read the shown one from a file


def hide_passwords(text: str) -> str:
    """The text with `***` for the password in every address of it."""
    text = re.sub(r"(\w://[^\s:/@]*:)[^\s/]*(?=@)", r"\1***", text)
    text = re.sub(r":[^\s:@/]+(?=@)", ":***", text)  # what stands before an @ may be one, whatever else is wrong
    return re.sub(r"(?i)((?:password|passwd|token|secret)=)[^&\s]*", r"\1***", text)


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite store; None for one in memory, and for other databases."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", url)
    return Path(found[1]) if found and found[1] != ":memory:" else None


def remember_address(url: str) -> None:
    """Keeps the address for this process and those that it starts."""
    os.environ[VARIABLE] = url


def whole_address(shown: str) -> str:
    """The address that was shown so, with its password where that is known; else as it is."""
    known = os.environ.get(VARIABLE, "")
    return known if hide_passwords(known) == shown else shown


def without_password(settings: dict) -> dict:
    """A run's settings as they are written down: `store` without its password."""
    return {**settings, "store": hide_passwords(settings["store"])} if settings.get("store") else settings
