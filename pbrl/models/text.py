"""Instructions as words that a policy reads. Made outside of compiled graphs: of a data set, once per episode."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from pbrl.types import UserError

WORDS = 16  # of an instruction; what follows is not read
BYTES = 512  # of an instruction that is handed on as it is
NONE, UNKNOWN, FIRST = 0, 1, 2  # tokens: no word, a word that the data never had, the first of the vocabulary


def words_of(instruction: str) -> list[str]:
    """The words of an instruction, in lower case and without marks, of which policies read the first `WORDS`."""
    return re.findall(r"[^\W_]+", instruction.lower())[:WORDS]


def vocabulary_of(instructions: Iterable[str]) -> tuple[str, ...]:
    """All words of these instructions, in the order of the alphabet."""
    return tuple(sorted({word for instruction in instructions for word in words_of(instruction)}))


def tokenize(instructions: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Instructions of B episodes → tokens [B, WORDS] int64: places in the vocabulary, from `FIRST` on."""
    places = {word: FIRST + i for i, word in enumerate(vocabulary)}
    tokens = np.full((len(instructions), WORDS), NONE, np.int64)
    for row, instruction in zip(tokens, instructions, strict=True):
        found = [places.get(word, UNKNOWN) for word in words_of(instruction)]
        row[: len(found)] = found
    return tokens


def to_bytes(instructions: Sequence[str]) -> np.ndarray:
    """Instructions of B episodes as they are → UTF-8 [B, BYTES] uint8, with zeros after their end."""
    rows = np.zeros((len(instructions), BYTES), np.uint8)
    for row, instruction in zip(rows, instructions, strict=True):
        data = instruction.encode()
        if len(data) > BYTES:
            raise UserError(f"an instruction of {len(data)} bytes: at most {BYTES} are read")
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return rows


def to_instruction(row: np.ndarray) -> str:
    """What `to_bytes` made of an instruction, read back: [BYTES] → text."""
    return row.tobytes().rstrip(b"\0").decode()


def check_instruction(instruction: str, vocabulary: Sequence[str]) -> None:
    """Raises UserError for an instruction without words, or with none that a policy was trained with, which knows all
    words where its `vocabulary` is empty."""
    words = words_of(instruction)
    if not words:
        raise UserError('this policy does what it is told in words: give it instruction="…"')
    if vocabulary and not set(words) & set(vocabulary):
        raise UserError(
            f"instruction={instruction!r}: this policy was trained with none of its words; they are "
            f"{', '.join(vocabulary)}"
        )


def unknown_words(instruction: str, vocabulary: Sequence[str]) -> list[str]:
    """Words that a policy was never trained with, and so does not understand."""
    return [word for word in words_of(instruction) if vocabulary and word not in vocabulary]
