"""Which questions concern a data set: those whose clips are all of its episodes, whatever they were asked about.

So answers are kept when data sets grow, are merged or filtered. A data set's id is the hash of its episodes' ids.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, or_, select, update

from pbrl.data.episodes import episode_id, former_ids
from pbrl.feedback.questions import clip_id, identity
from pbrl.feedback.store.database import Database, add, batches
from pbrl.feedback.store.reading import read_questions
from pbrl.feedback.store.schema import ClipRow, DatasetRow, ItemRow, MemberRow, QuestionRow
from pbrl.types import Clip, Episode

FRESH_S = 1.0  # how long it may take until questions about a data set that is new to the store are found


class SharingDataset(NamedTuple):
    """A data set that questions were asked about, and that shares episodes with another one."""

    id: str
    is_within: bool  # all its episodes are the other's


def dataset_id(episodes: Iterable[str]) -> str:
    """The id of a data set of these episodes, in whatever order they lie."""
    return identity("dataset", *sorted(set(episodes)))


def register(connection: Connection, episodes: Collection[str]) -> str:
    """Makes a data set known, once; returns its id."""
    members = sorted(set(episodes))
    dataset = dataset_id(members)
    if connection.execute(select(DatasetRow.id).where(DatasetRow.id == dataset)).first() is None:
        add(connection, DatasetRow, [{"id": dataset, "episodes": len(members)}])
        add(connection, MemberRow, [{"dataset": dataset, "episode": episode} for episode in members])
    return dataset


class SharingDatasets:
    """The data sets that share episodes with another one, looked up anew every second."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[float, list[SharingDataset]]] = {}

    def find(self, connection: Connection, dataset: str) -> list[SharingDataset]:
        """Those of the questions that may concern the data set."""
        until, found = self.known.get(dataset, (0.0, []))
        if time.monotonic() > until:
            found = _find_sharing(connection, dataset)
            self.known[dataset] = time.monotonic() + FRESH_S, found
        return found

    def concern(self, connection: Connection, dataset: str) -> ColumnElement[bool]:
        """A condition on questions: that they concern the data set."""
        return is_about(dataset, tuple(self.find(connection, dataset)))


@lru_cache(64)
def is_about(dataset: str, sharing: tuple[SharingDataset, ...]) -> ColumnElement[bool]:
    """A condition on questions: that they concern the data set, which shares episodes with those others."""
    within = QuestionRow.dataset.in_([other.id for other in sharing if other.is_within])
    others = [other.id for other in sharing if not other.is_within]
    if not others:
        return within
    return or_(within, and_(QuestionRow.dataset.in_(others), is_inside(dataset)))


def is_inside(dataset: str) -> ColumnElement[bool]:
    """A condition on questions: that all their clips are of a data set's episodes, looked up question by question."""
    outside = (
        select(func.count())
        .select_from(ItemRow)
        .join(ClipRow, ItemRow.clip == ClipRow.id)
        .outerjoin(MemberRow, and_(MemberRow.dataset == dataset, MemberRow.episode == ClipRow.episode))
        .where(ItemRow.question == QuestionRow.id, MemberRow.episode.is_(None))
        .correlate(QuestionRow)
    )
    return outside.scalar_subquery() == 0


_MINE, _THEIRS = MemberRow.__table__.alias("mine"), MemberRow.__table__.alias("theirs")
SHARING = (
    select(DatasetRow.id, DatasetRow.episodes, func.count())
    .select_from(_MINE)
    .join(_THEIRS, _THEIRS.c.episode == _MINE.c.episode)
    .join(DatasetRow, DatasetRow.id == _THEIRS.c.dataset)
    .where(_MINE.c.dataset == bindparam("dataset"))
    .group_by(DatasetRow.id, DatasetRow.episodes)
)


def _find_sharing(connection: Connection, dataset: str) -> list[SharingDataset]:
    found = connection.execute(SHARING, {"dataset": dataset})
    return [SharingDataset(other, shared == episodes) for other, episodes, shared in found]


# Stores before 0003


def adopt(store: Database, old_dataset: str, episodes: Sequence[str], steps: ArrayLike) -> int:
    """Gives clips that a store before 0003 knew by a data set's hash and a row their episode and step.

    `old_dataset` is `content_hash` of the whole data set, `episodes` and `steps` are its episodes' ids and numbers of
    steps, in its order. Returns how many clips there were; all or none of them are changed.
    """
    is_old = ClipRow.old_dataset == old_dataset, ClipRow.episode.is_(None)
    with store.reading() as connection:
        if connection.execute(select(ClipRow.id).where(*is_old).limit(1)).first() is None:
            return 0
    steps = np.asarray(steps)
    first = np.concatenate([[0], np.cumsum(steps + 1)[:-1]])  # rows; an episode has one more than steps
    with store.writing() as connection:
        dataset = register(connection, episodes)
        clips = {}
        for row in connection.execute(select(ClipRow.__table__).where(*is_old)):
            e = int(np.searchsorted(first, row.old_row, side="right")) - 1
            clip = Clip(episodes[e], int(row.old_row - first[e]), row.length)
            if clip.first + clip.length <= steps[e]:
                clips[row.id] = clip, row.old_row
        _rename_clips(connection, old_dataset, clips)
        _move_questions(connection, old_dataset, dataset)
    return len(clips)


def _rename_clips(connection: Connection, old_dataset: str, clips: dict[str, tuple[Clip, int]]) -> None:
    """Gives clips their new ids, and with them what points at them."""
    rows = {
        old: {"id": clip_id(clip), **clip._asdict(), "old_dataset": old_dataset, "old_row": row}
        for old, (clip, row) in clips.items()
    }
    _replace_clips(connection, rows)


def _replace_clips(connection: Connection, rows: dict[str, dict[str, Any]]) -> None:
    """Puts clips in the places of others, by whose ids they are given."""
    if not rows:
        return
    add(connection, ClipRow, list(rows.values()))
    point = update(ItemRow).where(ItemRow.clip == bindparam("old")).values(clip=bindparam("new"))
    connection.execute(point, [{"old": old, "new": row["id"]} for old, row in rows.items()])
    for batch in batches(list(rows)):
        connection.execute(delete(ClipRow).where(ClipRow.id.in_(batch)))


def _move_questions(connection: Connection, old_dataset: str, dataset: str) -> None:
    """Questions whose clips all have an episode now are questions about the data set, known by today's id too."""
    lacks = select(ItemRow.question).join(ClipRow, ItemRow.clip == ClipRow.id).where(ClipRow.episode.is_(None))
    query = select(QuestionRow.id).where(QuestionRow.dataset == old_dataset, QuestionRow.id.not_in(lacks))
    questions = read_questions(connection, connection.execute(query).scalars().all())
    if questions:
        move = update(QuestionRow).where(QuestionRow.id == bindparam("old"))
        move = move.values(dataset=dataset, same_as=bindparam("new"))
        connection.execute(move, [{"old": old, "new": question.id} for old, question in questions.items()])


# Recordings that stores knew by their place in a folder and the numbers beside them


def adopt_recordings(store: Database, episodes: Sequence[Episode]) -> int:
    """Gives clips of recordings, known to an earlier store by `former_ids`, the ids of their videos.

    `episodes` are a data set's. Returns how many clips there were; all or none of them are changed.
    """
    filmed = {episode_id(e): e for e in episodes if e.filmed}
    if not filmed:
        return 0
    with store.reading() as connection:
        known = connection.execute(select(ClipRow.episode).where(ClipRow.episode.is_not(None)).distinct())
        unknown = set(known.scalars()) - set(filmed)
    names = {
        old: new
        for new, e in (filmed if unknown else {}).items()
        for old in former_ids(e, len(episodes))
        if old in unknown
    }
    if not names:
        return 0
    with store.writing() as connection:
        rows = connection.execute(select(ClipRow.__table__).where(ClipRow.episode.in_(names))).mappings().all()
        clips = {row["id"]: Clip(names[row["episode"]], row["first"], row["length"]) for row in rows}
        _replace_clips(
            connection, {r["id"]: {**r, "id": clip_id(clips[r["id"]]), "episode": clips[r["id"]].episode} for r in rows}
        )
        _know_anew(connection, [clip_id(clip) for clip in clips.values()], register(connection, list(filmed)))
    return len(clips)


def _know_anew(connection: Connection, clips: Sequence[str], dataset: str) -> None:
    """Questions about these clips are questions about the data set, where it holds all of theirs."""
    for batch in batches(list(clips)):
        query = select(ItemRow.question).where(ItemRow.clip.in_(batch)).distinct()
        questions = read_questions(connection, connection.execute(query).scalars().all())
        if questions:
            same = update(QuestionRow).where(QuestionRow.id == bindparam("old")).values(same_as=bindparam("new"))
            connection.execute(same, [{"old": old, "new": question.id} for old, question in questions.items()])
            move = update(QuestionRow).where(QuestionRow.id.in_(list(questions)), is_inside(dataset))
            connection.execute(move.values(dataset=dataset))
