"""The questions of a labelling project: about clips from anywhere in a data set, with checks of raters among them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pbrl.data.table import Table
from pbrl.feedback.questions import KINDS, Question
from pbrl.feedback.store.store import Store
from pbrl.types import Clip, UserError

EVERY_RATER = 1_000_000  # answers that are wanted of a question that all raters shall be asked


def ask(config: Mapping[str, Any], store: Store, table: Table, dataset: str) -> int:
    """Asks what is not asked yet; the same command asks the same. Returns how many questions there are."""
    query = config["query"]
    if query["kind"] not in KINDS:
        raise UserError(f"query.kind={query['kind']}: it is one of {', '.join(KINDS)}")
    kind, count, length = KINDS[query["kind"]], query["count"], query["length"]
    low, high = kind.clips
    width = low if low == high else query["clips"]
    kind.check_clips(width, "query.clips")
    if count < 1 or config["wanted"] < 1:
        raise UserError("query.count and wanted must be at least 1")
    checks = config["checks"]
    if kind.name != "pair" and (checks["gold"] or checks["practice"]):
        raise UserError(f"checks.gold and checks.practice are of pairs, not of query.kind={kind.name}: leave them at 0")
    wording = kind.wording(config["words"])
    generator = torch.Generator().manual_seed(query["seed"])
    questions = [
        Question(kind.name, clips, wording, wanted=config["wanted"], position=i)
        for i, clips in enumerate(draw_clips(table, length, count, width, generator))
    ]
    gold, drawn = [], torch.Generator().manual_seed(query["seed"])
    if kind.name == "pair":  # refused before anything is asked
        drawn.set_state(generator.get_state())
        torch.randperm(count, generator=drawn)  # what the repeats draw
        gold = draw_gold(table, questions, checks, drawn)
    ids = store.ask(questions, dataset)
    if kind.name == "pair":
        store.ask(repeat_mirrored(questions, ids, checks["repeats"], generator), dataset)
        store.ask(gold, dataset)
    return len(ids)


def repeat_mirrored(
    questions: list[Question], ids: list[str], share: float, generator: torch.Generator
) -> list[Question]:
    """A share of the pairs once more, mirrored, when raters have forgotten the first."""
    count = len(questions)
    again = torch.randperm(count, generator=generator)[: round(share * count)].tolist()
    return [
        Question(
            "pair",
            questions[i].clips[::-1],
            questions[i].wording,
            wanted=questions[i].wanted,
            purpose="repeat",
            repeats=ids[i],
            position=i + max(10, count // 2),
        )
        for i in again
    ]


def draw_gold(
    table: Table, questions: list[Question], checks: Mapping[str, Any], generator: torch.Generator
) -> list[Question]:
    """Pairs whose answer is known by the true return: gold ones among the others, and practice before them."""
    count, first, found = len(questions), questions[0], []
    for purpose, n in (("gold", round(checks["gold"] * count)), ("practice", checks["practice"])):
        if not n:
            continue
        pairs, expected = pick_clearest(table, first.length, n, generator)
        every = max(1, count // n)
        found += [
            Question(
                "pair",
                pair,
                first.wording,
                wanted=EVERY_RATER,
                purpose=purpose,
                expected=label,
                priority=float(purpose == "practice"),
                position=every // 2 + i * every,
            )
            for i, (pair, label) in enumerate(zip(pairs, expected, strict=True))
        ]
    return found


def draw(table: Table, length: int, n: int, width: int, generator: torch.Generator) -> np.ndarray:
    """Starts [n, width] of different segments anywhere in the data. Raises UserError where there are too few."""
    places = table.segment_starts(length)
    if len(places) < width:
        raise UserError(f"query.length={length}: {len(places)} segments of that length fit into the data")
    return np.stack([places[torch.randperm(len(places), generator=generator)[:width]].numpy() for _ in range(n)])


def draw_clips(table: Table, length: int, n: int, width: int, generator: torch.Generator) -> list[tuple[Clip, ...]]:
    """The same as clips."""
    return to_clips(table, draw(table, length, n, width, generator), length)


def to_clips(table: Table, starts: np.ndarray, length: int) -> list[tuple[Clip, ...]]:
    """The clips that begin at rows starts [n, k]."""
    clips, width = table.clips(starts.ravel(), length), starts.shape[1]
    return [tuple(clips[i : i + width]) for i in range(0, len(clips), width)]


def has_clear_pairs(table: Table) -> bool:
    """Whether the true return tells segments apart: it is unknown of videos, which come with rewards of 0."""
    reward = table.reward
    return bool(torch.isfinite(reward).all()) and bool((reward != reward[0]).any())


def pick_clearest(
    table: Table, length: int, n: int, generator: torch.Generator
) -> tuple[list[tuple[Clip, ...]], list[float]]:
    """Of many pairs, those n whose true returns differ the most, and P(second preferred) by that.

    Raises UserError where fewer than n differ: then the right answer is not known.
    """
    pairs = draw(table, length, 20 * n, 2, generator)
    gap = table.reward[table.segment_rows(torch.from_numpy(pairs), length)].sum(-1).diff(dim=1)[:, 0].numpy()
    gap = np.where(np.isfinite(gap), gap, 0.0)
    best = np.argsort(-np.abs(gap))[:n]
    if not has_clear_pairs(table) or not np.all(gap[best]):
        raise UserError(
            f"checks.practice and checks.gold need pairs whose right answer is known by the true return, and of this "
            f"data it tells only {np.count_nonzero(gap[best])} of {n} apart (videos have none): leave both at 0"
        )
    return to_clips(table, pairs[best], length), [float(gap[i] > 0) for i in best]
