"""What a run asks and how long it trains, checked before anything is made."""

from dataclasses import dataclass

from pbrl.feedback.strategies import STRATEGIES, needs_reward
from pbrl.types import UserError


@dataclass(frozen=True)
class Query:
    """What is asked: `count` questions in `rounds`, about segments of `length` steps.

    `kind` is pair, rating, ranking (pairs that sort segments into lists, with `per_list` of them spent on each), or
    spans: stretches marked in a segment as good or bad, which are cut into pieces of `span` steps to learn from.
    `seed` decides which are asked: runs with different seeds of their own learn from the same answers.
    """

    kind: str
    count: int
    rounds: int
    length: int
    span: int
    strategy: str
    candidates: int
    per_list: int
    held_out: float
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in ("pair", "rating", "ranking", "spans"):
            raise UserError(f"query.kind={self.kind}: it is pair, rating, ranking or spans")
        if self.kind == "spans" and not 1 <= self.span <= self.length:
            raise UserError(f"query.span={self.span} lies between 1 and query.length={self.length}")
        if self.per_list < 1:
            raise UserError("query.per_list must be at least 1")
        if self.count < 1:
            raise UserError(f"query.count={self.count} must be at least 1")
        if not 1 <= self.rounds <= self.count:
            raise UserError(f"query.rounds={self.rounds} lies between 1 and query.count={self.count}")
        if self.length < 1 or self.candidates < 1 or not 0 <= self.held_out < 1:
            raise UserError("query.length and query.candidates must be at least 1, and query.held_out in [0, 1)")
        if self.strategy not in STRATEGIES:
            raise UserError(f"query.strategy={self.strategy}: it is one of {', '.join(STRATEGIES)}")
        if needs_reward(self.strategy) and self.rounds == 1:
            raise UserError(
                f"query.strategy={self.strategy} chooses by what the reward model has learnt from earlier rounds: "
                "query.rounds=2 or more"
            )
        if self.kind != "pair" and self.strategy != "uniform":
            raise UserError(f"query.strategy chooses pairs: with query.kind={self.kind} it must be uniform")

    @property
    def learnt_length(self) -> int:
        """Steps of a segment as learners get it."""
        return self.span if self.kind == "spans" else self.length


@dataclass(frozen=True)
class Schedule:
    """In updates: how long the algorithm trains, and how often it is logged, evaluated and saved; and the episodes.

    `eval_seed` decides which episodes: settings chosen with one are judged fairly with another.
    """

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    eval_episodes: int
    final_episodes: int
    eval_seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "eval_seed" else 1
            if value < least:
                raise UserError(f"{name}={value} must be at least {least}")
        if self.checkpoint_every % self.log_every:
            raise UserError(f"checkpoint_every={self.checkpoint_every} is not a multiple of log_every={self.log_every}")
