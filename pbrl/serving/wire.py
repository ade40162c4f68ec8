"""Messages between policies and their servers: msgpack with arrays, laid out as openpi's servers and clients read them.

An array is a map of `__ndarray__`, its bytes, its dtype and its shape. (The package msgpack-numpy writes other names.)
"""

import math
from typing import Any

import msgpack
import numpy as np

from pbrl.types import UserError

KINDS = "biufSU"  # of dtypes: numbers, truth and text; never objects


def pack(message: Any) -> bytes:
    """Maps, lists, text, numbers and arrays → bytes. Raises UserError for an array of something else."""
    return msgpack.packb(message, default=_to_map)  # type: ignore[return-value]


def unpack(data: bytes) -> Any:
    """What `pack` made. Raises UserError where it is none, or an array's bytes do not fit its shape."""
    try:
        return msgpack.unpackb(data, object_hook=_from_map)
    except UserError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds
        raise UserError(f"{len(data)} bytes that are no message ({type(error).__name__}: {error})") from None


def _to_map(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind not in KINDS:
        raise UserError(f"an array of {value.dtype} is not sent: numbers and text are")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise UserError(f"a {type(value).__name__} is not sent: numbers, text, lists, maps and arrays are")


def _from_map(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in value and b"__npgeneric__" not in value:
        return value
    dtype = np.dtype(value[b"dtype"])
    if dtype.kind not in KINDS:
        raise UserError(f"an array of {dtype} is not read: numbers and text are")
    if b"__npgeneric__" in value:
        return dtype.type(value[b"data"])
    shape, data = [int(size) for size in value[b"shape"]], value[b"data"]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise UserError(f"an array of shape {shape} and {dtype} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()
