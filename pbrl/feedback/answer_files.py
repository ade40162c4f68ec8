"""Files of answers: lines of JSON, Parquet, and folders of either, row by row with the place of each."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pbrl.types import UserError

Row = tuple[str, dict[str, Any]]  # where it stands, as messages name it; the row
SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
SHARD = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(.*)")  # as `datasets` names the parts of a table


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder. Raises UserError with file and line."""
    for file in find_files(path):
        try:
            yield from _read_parquet(file) if file.suffix == ".parquet" else _read_lines(file)
        except OSError as error:
            raise UserError(
                f"cannot read {file} ({error.strerror or error}): name a file or folder of answers"
            ) from error


def find_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder in order, hidden ones left out. Raises UserError if any is missing."""
    if not path.is_dir():
        return [path]
    inside = (file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES and file.is_file())
    found = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if any(file.suffix == ".parquet" for file in found):  # beside it, .json describes the table
        found = [file for file in found if file.suffix == ".parquet"]
    if not found:
        raise UserError(f"{path} holds no file of answers: {', '.join(SUFFIXES)}")
    for file in found:
        shard = SHARD.fullmatch(file.name)
        if shard is not None:
            _check_shards(file.parent, *shard.groups())
    return found


def _check_shards(folder: Path, name: str, _: str, count: str, rest: str) -> None:
    for i in range(int(count)):
        part = folder / f"{name}-{i:05}-of-{count}{rest}"
        if not part.exists():
            raise UserError(f"{part} is missing: this is a table of {int(count)} files, and all are needed")


def _read_lines(file: Path) -> Iterator[Row]:
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = _decode(content, "utf-16", str(file)).encode()
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        where = f"{file}, line {number}"
        text = _decode(line, "utf-8", where).strip()
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON ({error}): is the file cut off, or no export of answers?") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is no JSON object: in an export of answers, each line is one")
        yield where, row


def _decode(content: bytes, encoding: str, where: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no {encoding.upper()} text ({error.reason}): store the file as UTF-8") from error


def _read_parquet(file: Path) -> Iterator[Row]:
    pyarrow = import_pyarrow()
    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{file} is no Parquet ({lines[0]}): is the file cut off, or of another format?") from error
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{file}, row {number}", row


def import_pyarrow() -> Any:
    """The library that reads and writes Parquet. Raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: `pip install pbrl[label]`, or use .jsonl") from error
    return pyarrow
