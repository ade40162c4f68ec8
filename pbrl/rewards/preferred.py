"""Which videos a reward of likeness is about: those that are named, or those that explain the answers best."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pbrl.data.table import Table
from pbrl.training.batches import Data
from pbrl.types import UserError

MOST = 64  # winners that are tried
NAMELESS = "reward.preferred_from is a data set without answers: name its episodes to be like with reward.preferred=[…]"


class Pick(NamedTuple):
    """`named` episodes, by place or id, or a file with one a line; None: the `count` best of the answers."""

    named: Sequence[int | str] | str | None
    count: int


def find_preferred(
    data: Data, pick: Pick, similarities: Callable[[Tensor], Tensor]
) -> tuple[Table, list[tuple[int, int]]]:
    """The table of the preferred videos, and the first row and the steps of each; the best one first.

    Named ones are of another data set, where the table has one beside it. Of ratings and rankings they are the best
    segments. Of pairs, those winners are tried; the best make the answers most likely, when each segment is scored by
    its `similarities` to that winner alone. Raises UserError where there is none.
    """
    if pick.named is not None:
        table = data.table.beside or data.table
        return table, name_rows(table, pick)
    if data.table.beside is not None:
        raise UserError(NAMELESS)
    if data.labels is None or not len(data.train):
        raise UserError("there are no answers to take preferred videos from: reward.preferred=[…] names episodes")
    if data.labels.kind == "triplet":
        raise UserError(
            "triplets say what is alike, and not what is good: name episodes to be like with reward.preferred=[…] "
            "(places in the data set, ids, or a file with one a line)"
        )
    starts = rank_pairs(data, similarities) if data.labels.kind == "pair" else rank_values(data)
    return data.table, [(int(start), data.length) for start in starts[: pick.count]]


def name_rows(table: Table, pick: Pick) -> list[tuple[int, int]]:
    """The first row and the steps of each named episode of a table. Raises UserError where one is not there."""
    if pick.named is None:
        raise UserError(NAMELESS)
    return [episode_rows(table, name) for name in read_names(pick.named, pick.count)]


def read_names(named: Sequence[int | str] | str, count: int) -> Sequence[int | str]:
    """The episodes that a setting names, itself or in a file. Raises UserError where they are none, or too many."""
    if isinstance(named, str):
        path = Path(named).expanduser()
        if not path.is_file():
            raise UserError(
                f"reward.preferred={named}: there is no such file, of places or ids of episodes, one a line"
            )
        words = path.read_text().split()
        named = [int(word) if word.isdigit() else word for word in words]
    if not 0 < len(named) <= count:
        raise UserError(f"reward.preferred names {len(named)} episodes: it takes 1 to reward.videos={count}")
    return named


def episode_rows(table: Table, name: int | str) -> tuple[int, int]:
    """The first row of an episode, and its steps. Raises UserError where the table has none of that name."""
    known = range(len(table.ids)) if isinstance(name, int) else table.ids
    if name not in known:
        raise UserError(
            f"reward.preferred={name}: the data hold no such episode; their places are 0 to {len(table.ids) - 1}"
        )
    place = name if isinstance(name, int) else table.ids.index(name)
    return int(table.first[place]), int(table.steps[place])


def rank_values(data: Data) -> Tensor:
    """Rows [n] where segments begin, without repetition, from the best to the worst in their list."""
    places = data.train.value.sort(descending=True, stable=True).indices
    return unique(data.train.starts[places, 0])


def rank_pairs(data: Data, similarities: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows [n] where winners begin, from the one that explains the comparisons best. Raises UserError without any."""
    starts, value = data.train.starts, data.train.value
    decided = (value != 0.5).nonzero()[:, 0]
    winners = unique(starts[decided, (value[decided] > 0.5).long()])[:MOST]
    if not len(winners):
        raise UserError("all answers are ties, so no video is preferred: ask more (query.count), or name episodes with "
                        "reward.preferred=[…]")  # fmt: skip
    asked = torch.unique(starts)
    pairs = torch.cartesian_prod(winners, asked)
    likeness = similarities(pairs).reshape(len(winners), len(asked))
    first, second = (likeness[:, torch.searchsorted(asked, starts[:, i].contiguous())] for i in range(2))  # [W, Q]
    itself = (starts[None] == winners[:, None, None]).any(-1)  # says nothing of others
    log_odds = (second - first) / likeness.std().clamp(min=1e-8)
    likely = value * logsigmoid(log_odds) + (1 - value) * logsigmoid(-log_odds)
    mean = (likely * ~itself).sum(1) / (~itself).sum(1).clamp(min=1)
    return winners[mean.sort(descending=True, stable=True).indices]


def unique(rows: Tensor) -> Tensor:
    """Rows [n] without repetition, in their order."""
    return torch.tensor(list(dict.fromkeys(rows.tolist())), dtype=rows.dtype, device=rows.device)
