"""Values from files as the columns of the store keep them: each is checked by its column's type and size."""

import json
import math
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Float, Integer, String

from pbrl.feedback.limits import check_json, check_text, is_number, is_whole, to_utc
from pbrl.types import UserError


def is_missing(value: Any) -> bool:
    """Whether a file has nothing there: null, or the NaN that tables of numbers have in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def to_field(column: Column, value: Any, name: str) -> Any:
    """A value out of a file as a column keeps it; `name` says in messages which it is. Raises UserError."""
    if is_missing(value):
        if not column.nullable:
            raise UserError(f"{name} is missing")
        return None
    if isinstance(column.type, String):
        return check_text(value, column.type.length or 0, name)
    if isinstance(column.type, Integer):
        return to_whole(value, name)
    if isinstance(column.type, Float):
        if not is_number(value):
            raise UserError(f"{name} is a finite number, not {value!r:.60}")
        return float(value)
    if isinstance(column.type, DateTime):
        return _to_time(value, name)
    assert isinstance(column.type, JSON)
    return to_object(value, name)


def to_whole(value: Any, name: str, low: int = -(2**31)) -> int:
    """An integer from `low` to 2³¹ - 1; 3.0 is one too, as tables with gaps write it. Raises UserError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not is_whole(value, low):
        raise UserError(f"{name} is a whole number{f' from {low}' if low >= 0 else ''}, not {value!r:.60}")
    return int(value)


def to_object(value: Any, name: str) -> dict[str, Any]:
    """A JSON object, or the text of one. Raises UserError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name} is the text of a JSON object ({error})") from error
    check_json(value, name)
    return value


def _to_time(value: Any, name: str) -> datetime:
    """A moment; text and tables that name no zone are in UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise UserError(f"{name} is a time such as 2026-11-28T18:30:00+01:00, not {value!r:.60}") from error
    if not isinstance(value, datetime):
        raise UserError(f"{name} is a time such as 2026-11-28T18:30:00+01:00, not {value!r:.60}")
    return to_utc(value, name)
