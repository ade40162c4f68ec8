"""What text, numbers, times and JSON from outside may be, so that each database keeps them and gives them back.

PostgreSQL takes no NUL in text and no NaN in JSON, SQLite no number beyond 64 bits, and neither a time before year 1.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any

from pbrl.types import UserError

LARGEST_JSON = 65_536  # characters
DEEPEST = 8  # lists and objects within each other
WHOLE = 2**53  # beyond, JSON's numbers are no longer exact
FLOAT32 = 3e38  # labels are learnt from in float32
YEARS = (1900, 2999)


def check_text(value: Any, most: int, what: str) -> str:
    """The text, of up to `most` characters, none of them NUL or half of a surrogate pair. Raises UserError."""
    if not isinstance(value, str):
        raise UserError(f"{what} is text, not {_show(value)}")
    if len(value) > most:
        raise UserError(f"{what} is text of up to {most} characters, not of {len(value)}")
    if "\0" in value or not _is_unicode(value):
        raise UserError(f"{what} holds a character that is no text (NUL, or half of one): leave it out")
    return value


def is_number(value: Any, low: float = -FLOAT32, high: float = FLOAT32) -> bool:
    """Whether it is a finite number in [low, high]; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: int, high: int = 2**31 - 1) -> bool:
    """Whether it is an integer in [low, high], and no float such as 1.0."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check_json(value: Any, what: str, most: int = LARGEST_JSON) -> None:
    """Raises UserError where a value is no JSON object of up to `most` characters that all databases keep."""
    if not isinstance(value, dict):
        raise UserError(f"{what} is a JSON object, not {_show(value)}")
    _check_part(value, what, DEEPEST)
    size = len(json.dumps(value))
    if size > most:
        raise UserError(f"{what} is JSON of up to {most} characters, not of {size}")


def to_utc(time: datetime, what: str = "the time") -> datetime:
    """The same moment in UTC, of which a time without a zone is. Raises UserError beyond the years 1900 to 2999."""
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    try:
        time = time.astimezone(UTC)
    except (OverflowError, ValueError):
        time = datetime.min
    if not YEARS[0] <= time.year <= YEARS[1]:
        raise UserError(f"{what} lies beyond the years {YEARS[0]} to {YEARS[1]}: is the clock set?")
    return time


def _check_part(value: Any, what: str, deeper: int) -> None:
    if deeper < 0:
        raise UserError(f"{what} holds lists or objects more than {DEEPEST} deep")
    if isinstance(value, dict):
        for key in value:
            check_text(key, LARGEST_JSON, f"a name in {what}")
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_part(part, what, deeper - 1)
    elif isinstance(value, str):
        check_text(value, LARGEST_JSON, what)
    elif not (value is None or isinstance(value, bool) or _is_json_number(value)):
        raise UserError(f"{what} holds {_show(value)}, which JSON has no place for")


def _is_json_number(value: Any) -> bool:
    return is_whole(value, -WHOLE, WHOLE) or (isinstance(value, float) and math.isfinite(value))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(value: Any) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}…"
