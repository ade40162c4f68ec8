"""Bytes from one process to another through shared memory: putting never waits, and a full ring returns False.

What was put is there to be taken even after the process that put it was killed; and a taker that was stopped holds
no other process up. Two semaphores keep the order: `filled` counts what is to be taken, `freed` what has been.
"""

import ctypes
from collections import deque
from collections.abc import Sequence
from multiprocessing.context import SpawnContext

import numpy as np


class Ring:
    """For one process that puts (a thread at a time) and one that takes. A message is some buffers, kept together."""

    def __init__(self, context: SpawnContext, size: int):
        self.size = size // 8 * 8  # bytes; every part begins at a multiple of 8
        self.memory = context.RawArray(ctypes.c_uint8, self.size)
        self.filled, self.freed = context.Semaphore(0), context.Semaphore(0)
        self.at, self.free = 0, self.size  # where the next message begins; what may be written to
        self.sizes: deque[int] = deque()  # of the messages on their way

    def put(self, parts: Sequence[bytes | memoryview], spare: int = 0) -> bool:
        """Copies a message in. False, and nothing done, where that would leave fewer than `spare` bytes."""
        while self.freed.acquire(False):
            self.free += self.sizes.popleft()
        lengths = [memoryview(part).nbytes for part in parts]
        size = 8 * (1 + len(parts)) + sum(map(_padded_size, lengths))
        turns = self.at + size > self.size  # a message is in one piece
        left_over = self.size - self.at if turns else 0
        if self.free < left_over + size + spare:
            return False
        view = np.ctypeslib.as_array(self.memory)
        if left_over:
            view[self.at : self.at + 8].view(np.uint64)[0] = 0  # no message has 0 parts: go on at the beginning
        if turns:
            self.at = 0
        view[self.at : self.at + 8 * (1 + len(parts))].view(np.uint64)[:] = [len(parts), *lengths]
        at = self.at + 8 * (1 + len(parts))
        for part, length in zip(parts, lengths, strict=True):
            view[at : at + length] = np.frombuffer(part, np.uint8)
            at += _padded_size(length)
        self.at += size
        self.free -= left_over + size
        self.sizes.append(left_over + size)
        self.filled.release()
        return True

    def take(self, wait_s: float) -> list[memoryview] | None:
        """The next message, where it lies: valid until `done`. None where none comes in time."""
        if not self.filled.acquire(timeout=wait_s):
            return None
        view = np.ctypeslib.as_array(self.memory)
        if self.at == self.size or not view[self.at : self.at + 8].view(np.uint64)[0]:
            self.at = 0
        count = int(view[self.at : self.at + 8].view(np.uint64)[0])
        lengths = view[self.at + 8 : self.at + 8 * (1 + count)].view(np.uint64).tolist()
        self.at += 8 * (1 + count)
        parts = []
        for length in lengths:
            parts.append(view[self.at : self.at + length].data)
            self.at += _padded_size(length)
        return parts

    def done(self) -> None:
        """What was taken may be written over."""
        self.freed.release()


def _padded_size(length: int) -> int:
    return -(-length // 8) * 8
