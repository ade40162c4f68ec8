"""People's answers as others publish them, pickles about a D4RL file: into a store, without running them, and out.

    python -m pbrl.feedback.unirlhf <folder with the pickles> <D4RL file .hdf5> <database>
    python -m pbrl.feedback.unirlhf <new folder> <D4RL file .hdf5> <database> --export 200    # steps in a segment

Reads the folders of Uni-RLHF (Yuan et al. 2024, arXiv:2402.02423: `indices_1_…`, `indices_2_…`, `human_label_…`) and of
Preference Transformer (Kim et al. 2023, arXiv:2303.00957: `indices_num…`, `indices_2_num…`, `label_human`). Indices
count the transitions of D4RL's `qlearning_dataset`; a label says which was better, 0 or 1, and -1 is a tie.
"""

import argparse
import pickle
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pbrl.data import episodes as storage
from pbrl.data.table import Table
from pbrl.feedback.questions import ANSWER, TIE, Question, Value, identity
from pbrl.feedback.read import read_answers, sort_out
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.types import UserError


def _numeric(code: Any, *more: Any) -> np.dtype:
    """A type of numbers, and no other: an array of objects is not what answers need. Raises UserError."""
    dtype = np.dtype(code, *more)
    if dtype.kind not in "iufb":
        raise UserError(f"it holds arrays of {dtype}, and answers are numbers")
    return dtype


NAMES = {  # what a file's name begins with; the first that fits counts
    "second": ("indices_2_",),
    "first": ("indices_1_", "indices_num"),
    "label": ("human_label", "label_human", "fake_label", "label_dummy"),
}
HARMLESS = {  # all that a pickle of lists, numbers and arrays asks for
    **{
        (f"numpy.{core}.{module}", name): getattr(import_module(f"numpy._core.{module}"), name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _numeric,
    ("_codecs", "encode"): str.encode,
}


class Comparisons(NamedTuple):
    """Q published comparisons of segments of `length` steps."""

    starts: np.ndarray  # [Q, 2] int64, places in `qlearning_dataset`
    label: np.ndarray  # [Q] float64, P(second preferred)
    length: int


class ArrayUnpickler(pickle.Unpickler):
    """Makes lists, numbers and arrays of numbers, and refuses all else: a pickle may name any function to be run."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that a pickle names, if `HARMLESS` has it. Raises UserError otherwise."""
        if (module, name) not in HARMLESS:
            raise UserError(f"it asks to run {module}.{name}, and answers need nothing of that kind")
        return HARMLESS[module, name]


def read(folder: Path) -> Comparisons:
    """The answers in a folder of three pickles. Raises UserError where they are missing, odd or would run code."""
    found: dict[str, list[Path]] = {part: [] for part in NAMES}
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        for part, prefixes in NAMES.items():
            if path.name.startswith(prefixes):
                found[part].append(path)
                break
    if any(len(paths) != 1 for paths in found.values()):
        missing = ", ".join(f"{len(paths)} × {' or '.join(NAMES[p])}…" for p, paths in found.items())
        raise UserError(
            f"{folder} shall hold one file each of the first and second indices and the labels, not {missing}"
        )
    length = re.search(r"_(?:len_|q)(\d+)", found["first"][0].name)
    if length is None:
        raise UserError(f"{found['first'][0]} does not say how long segments are: …_len_200_… or …_q100 in its name")
    first, second, label = (_array(found[part][0]) for part in ("first", "second", "label"))
    if label.ndim == 2 and label.shape[1] == 2:  # P(first), P(second)
        label = label[:, 1]
    elif label.ndim == 1:
        label = np.where(label == -1, 0.5, label)
    fits = first.ndim == second.ndim == label.ndim == 1 and len(first) == len(second) == len(label)
    if not fits or not np.isin(label, (0, 0.5, 1)).all() or min(first.min(initial=0), second.min(initial=0)) < 0:
        raise UserError(f"{folder} does not hold comparisons: two lists of places and one of 0, 1 or -1, equally long")
    return Comparisons(np.stack([first, second], 1).astype(np.int64), label.astype(np.float64), int(length[1]))


def _array(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            array = np.asarray(ArrayUnpickler(file).load())
    except UserError as error:
        raise UserError(f"{path} was not read: {error}") from None
    except Exception as error:  # pickles fail in many ways
        raise UserError(f"{path} is no pickle of a list or an array ({error!r})") from error
    if array.dtype.kind not in "iufb":
        raise UserError(f"{path} holds no numbers")
    return array


def import_answers(folder: Path, data: Path, store: Store) -> tuple[int, int]:
    """Puts a folder's answers about a D4RL file into the store, once; returns how many, and how many were left out.

    Left out is what crosses the end of an episode or lies beyond the file. Raises UserError.
    """
    starts, label, length = read(folder)
    episodes = storage.read(data)
    rows = storage.d4rl_rows(data)
    beyond = np.append(rows, np.full(length, -1))  # what lies after the file
    begin, end = (beyond[np.minimum(starts + i, len(beyond) - 1)] for i in (0, length - 1))
    whole = ((begin >= 0) & (end - begin == length - 1)).all(1)
    if not whole.any():
        raise UserError(f"no answer in {folder} fits {data}: is it about another data set?")
    table, rater = Table(episodes), Path(folder).resolve().name[:64]
    clips = table.clips(begin[whole].ravel(), length)
    store.add_rater(rater, "script")
    questions = [
        Question("pair", (first, second), strategy="published", position=i)
        for i, (first, second) in enumerate(zip(clips[::2], clips[1::2], strict=True))
    ]
    answers = [
        Answer(identity("answer", question, rater), question, rater, Value(TIE if p == 0.5 else ANSWER, float(p)))
        for question, p in zip(store.ask(questions), label[whole], strict=True)
    ]
    store.append(answers)
    return int(whole.sum()), int((~whole).sum())


def export_answers(store: Store, data: Path, folder: Path, length: int) -> tuple[int, int]:
    """Writes what the store holds of pairs about a D4RL file as others read it; returns how many, and those left out.

    Left out is what raters could not tell, and segments with a step that D4RL's list has not. Raises UserError.
    """
    table, rows = Table(storage.read(data)), storage.d4rl_rows(data)
    found, _ = sort_out(read_answers(store, table, "pair", length), table)
    if not found:
        raise UserError(f"{store.address} holds no answers to pairs of {length} steps about {data}")
    starts = np.array([[table.row(clip) for clip in question.clips] for _, question in found])
    values = np.array([np.nan if a.value is None or a.value.label is None else a.value.label for a, _ in found])
    place = np.full(max(rows.max(), starts.max() + length) + 1, -1)
    place[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    begin, end = place[starts], place[starts + length - 1]
    is_listed = ~np.isnan(values) & ((begin >= 0) & (end - begin == length - 1)).all(1)
    label = np.where(values == 0.5, -1, values)[is_listed].astype(np.int64)
    name = f"num_{is_listed.sum()}_len_{length}.pkl"
    parts = {"indices_1": begin[is_listed, 0], "indices_2": begin[is_listed, 1], "human_label": label}
    try:
        Path(folder).mkdir(parents=True)
        for part, values in parts.items():
            (Path(folder) / f"{part}_{name}").write_bytes(pickle.dumps(values, protocol=4))
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error}): name a folder that is not there yet") from error
    return int(is_listed.sum()), int((~is_listed).sum())


def main() -> None:
    """Imports a folder of published answers into a store, or exports a store's answers to such a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("database", help="a file such as answers.sqlite, or any SQLAlchemy URL")
    parser.add_argument("--export", type=int, metavar="LENGTH", help="write answers about segments of so many steps")
    args = parser.parse_args()
    url = args.database if "://" in args.database else f"sqlite:///{args.database}"
    try:
        if args.export:
            count, left_out = export_answers(Store(url), args.data, args.folder, args.export)
            print(f"{count} answers in {args.folder}, {left_out} left out")
            return
        count, left_out = import_answers(args.folder, args.data, Store(url))
    except UserError as error:
        sys.exit(str(error))
    print(
        f"{count} answers, {left_out} left out; to learn from them: data=file data.path={args.data} feedback=stored "
        f"store={url} query.kind=pair query.length={read(args.folder).length}"
    )


if __name__ == "__main__":
    main()
