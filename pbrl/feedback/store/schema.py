"""What the store keeps, as SQL tables: clips, questions, raters, and an event for each answer, retraction or pass.

Events are only ever added. To take an answer back, or to give another, is a new event that names the old one. How many
answers a question has and how many it still wants are counted anew from its events in each transaction that adds some.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Float, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

HEAD = "0004"  # the last migration; see migrations/versions


class Base(DeclarativeBase):
    pass


class IdentityRow(Base):
    """The store's own id, in one row; see identity.py."""

    __tablename__ = "identity"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)


class ClipRow(Base):
    """A stretch of an episode.

    Stores before 0003 knew a clip by the hash of a data set and a row of its table. Such clips keep both, and have no
    episode, until that data set is opened with the store; see datasets.py.
    """

    __tablename__ = "clips"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    episode: Mapped[str | None] = mapped_column(String(64), index=True)  # id
    first: Mapped[int | None] = mapped_column(Integer)  # step
    length: Mapped[int] = mapped_column(Integer)  # steps
    old_dataset: Mapped[str | None] = mapped_column(String(64), index=True)  # content hash
    old_row: Mapped[int | None] = mapped_column(Integer)
    __table_args__ = (
        CheckConstraint("(episode IS NULL) = (first IS NULL)", name="step_is_of_an_episode"),
        CheckConstraint("(old_dataset IS NULL) = (old_row IS NULL)", name="row_is_of_a_dataset"),
        CheckConstraint("episode IS NOT NULL OR old_dataset IS NOT NULL", name="clip_is_of_something"),
    )


class DatasetRow(Base):
    """A data set that questions were asked about, or that raters have opened."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # hash of its episodes' ids
    episodes: Mapped[int] = mapped_column(Integer)


class MemberRow(Base):
    """An episode of a data set."""

    __tablename__ = "members"
    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    episode: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class WordingRow(Base):
    """What raters are asked, word for word; other words are another wording."""

    __tablename__ = "wordings"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    words: Mapped[dict[str, Any]] = mapped_column(JSON)  # the text, and the attributes it asks about


class QuestionRow(Base):
    """A question about clips. `wanted` answers are asked for, `given` are there, `open` may be leased.

    `dataset` is the one it was first asked about: an index for speed. Which data sets a question concerns is up to its
    clips' episodes alone. Questions of stores before 0003 keep the ids that they had; `same_as` is the id under which
    the same question would be asked today.
    """

    __tablename__ = "questions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # see pbrl/feedback/questions.py
    dataset: Mapped[str] = mapped_column(String(64))
    length: Mapped[int] = mapped_column(Integer)  # steps of its longest clip
    strategy: Mapped[str] = mapped_column(String(32))
    round: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(Integer)  # in its round
    asked: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    wording: Mapped[str | None] = mapped_column(ForeignKey("wordings.id"))
    purpose: Mapped[str] = mapped_column(String(8), server_default="learn")  # learn, practice, gold or repeat
    expected: Mapped[float | None] = mapped_column(Float)  # the right label, of practice and gold
    repeats: Mapped[str | None] = mapped_column(ForeignKey("questions.id"))  # whose mirror image it is
    priority: Mapped[float] = mapped_column(Float, server_default="0")
    wanted: Mapped[int] = mapped_column(Integer, server_default="1")
    given: Mapped[int] = mapped_column(Integer, server_default="0")
    open: Mapped[int] = mapped_column(Integer, server_default="0")
    rater_kind: Mapped[str | None] = mapped_column(String(8))  # which raters may answer; NULL: any rater
    same_as: Mapped[str | None] = mapped_column(String(32), index=True)
    __table_args__ = (
        Index(
            "next_question",
            "dataset",
            priority.desc(),
            "round",
            "position",
            "id",
            sqlite_where=text("open > 0"),
            postgresql_where=text("open > 0"),
        ),
        CheckConstraint("purpose IN ('learn', 'practice', 'gold', 'repeat')", name="purpose_is_known"),
        CheckConstraint("given >= 0 AND wanted >= 0", name="counts_are_not_negative"),
    )


class ItemRow(Base):
    """A question's clip at a place: 0 is the first."""

    __tablename__ = "items"
    question: Mapped[str] = mapped_column(ForeignKey("questions.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    clip: Mapped[str] = mapped_column(ForeignKey("clips.id"), index=True)


class RaterRow(Base):
    """A person, a vision-language model or a script that answers."""

    __tablename__ = "raters"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    about: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    token: Mapped[str | None] = mapped_column(String(64), unique=True)  # SHA-256 of what opens the page
    __table_args__ = (CheckConstraint("kind IN ('human', 'vlm', 'script')", name="kind_is_known"),)


class LeaseRow(Base):
    """A question that a rater has a lease on, `until` then (seconds since 1970)."""

    __tablename__ = "leases"
    question: Mapped[str] = mapped_column(ForeignKey("questions.id"), primary_key=True)
    rater: Mapped[str] = mapped_column(ForeignKey("raters.name"), primary_key=True)
    until: Mapped[float] = mapped_column(Float, index=True)


class EventRow(Base):
    """A rater answered, took an answer back, or passed a question on.

    `uid` is made by the rater's side, so that sending twice changes nothing. `outcome` is answer, tie or skip ("can't
    tell"); `label` is P(second preferred) or a rating, `detail` all that is no number.
    """

    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    uid: Mapped[str] = mapped_column(String(36), unique=True)
    question: Mapped[str] = mapped_column(ForeignKey("questions.id"), index=True)
    rater: Mapped[str] = mapped_column(ForeignKey("raters.name"), index=True)
    kind: Mapped[str] = mapped_column(String(8))
    outcome: Mapped[str | None] = mapped_column(String(8))
    label: Mapped[float | None] = mapped_column(Float)
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    shown: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # order of the clips, what was played, page version
    confidence: Mapped[float] = mapped_column(Float, server_default="1")
    seconds: Mapped[float | None] = mapped_column(Float)  # how long it took, where a clock ran
    time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # by the rater's clock
    stored: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    supersedes: Mapped[str | None] = mapped_column(String(36), index=True)  # an earlier event's uid
    __table_args__ = (
        CheckConstraint("kind IN ('answer', 'retract', 'pass')", name="event_is_known"),
        CheckConstraint("(kind = 'answer') = (outcome IS NOT NULL)", name="answers_have_an_outcome"),
        CheckConstraint("outcome IN ('answer', 'tie', 'skip')", name="outcome_is_known"),
        CheckConstraint("kind <> 'retract' OR supersedes IS NOT NULL", name="retractions_name_an_event"),
        {"sqlite_autoincrement": True},
    )
