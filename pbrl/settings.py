"""The settings of a run, typed, and checked before anything is made.

`RunSettings.parse` turns what the command line composed into plain, typed values; the parts of a run (environment,
algorithm, reward model, …) are configs with a `_target_`, whose keys are compared with the parameters of its target.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from pbrl.feedback.strategies import STRATEGIES, needs_reward
from pbrl.types import UserError


@dataclass(frozen=True)
class Query:
    """What is asked: `count` questions in `rounds`, about segments of `length` steps.

    `kind` is pair, rating, ranking (of `clips`; of a source that compares only pairs, pairs that sort segments into
    lists, with `per_list` of them spent on each), or spans: stretches marked in a segment as good or bad, which are cut
    into pieces of `span` steps to learn from. `seed` decides which are asked: runs with different seeds of their own
    learn from the same answers.
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
    clips: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("pair", "rating", "ranking", "spans"):
            raise UserError(f"query.kind={self.kind}: it is pair, rating, ranking or spans")
        if self.kind == "spans" and not 1 <= self.span <= self.length:
            raise UserError(f"query.span={self.span} lies between 1 and query.length={self.length}")
        if self.kind == "ranking" and not 3 <= self.clips <= 5:
            raise UserError(f"query.clips={self.clips}: a ranking is of 3 to 5 clips")
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
    def width(self) -> int:
        """Clips of a question."""
        return {"pair": 2, "ranking": self.clips}.get(self.kind, 1)

    @property
    def learnt_length(self) -> int:
        """Steps of a segment as learners get it."""
        return self.span if self.kind == "spans" else self.length


@dataclass(frozen=True)
class Schedule:
    """In updates: how long the algorithm trains, and how often it is logged, evaluated and saved; and the episodes.

    `eval_seed` decides which episodes: choose settings with one, report another.
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


TYPE_NAMES = {type(None): "null", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
Part = dict[str, Any]  # a config with a `_target_`: the name of a class or function, and its arguments
PARTS = ("env", "feedback", "reward", "algo", "objective", "reward_objective", "policy", "baseline")
MAY_CHANGE = {  # when a run goes on; the rest makes it another run
    "device", "threads", "workers", "compile", "only", "compare", "baseline", "video", "logger", "run", "store",
    "data_dir", "checkpoint_every", "grow",
}  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run; see configs/train.yaml for what each means."""

    env: Part
    data: dict[str, Any]
    feedback: Part
    reward: Part
    algo: Part
    objective: Part
    reward_objective: Part
    policy: Part
    baseline: Part
    logger: dict[str, Any]
    query: Query
    reference: dict[str, Any]
    schedule: Schedule
    seed: int
    seeds: int
    data_seed: int
    device: str
    threads: int
    compile: str
    bf16: bool
    only: str | None
    workers: int
    compare: bool
    video: bool
    reward_scale: str
    data_dir: Path
    store: str | None
    run: Path | None
    grow: bool
    plain: dict[str, Any]  # all of them as they were composed

    @classmethod
    def parse(cls, config: dict[str, Any]) -> "RunSettings":
        """Typed settings. Raises UserError for a name that means nothing, or a value of another type."""
        own = {field.name for field in fields(cls)} - {"schedule", "plain"}
        schedule = {field.name for field in fields(Schedule)}
        check_names("the command line", config, own | schedule)
        check_names("query", config["query"], {field.name for field in fields(Query)})
        values = {name: config[name] for name in own if name not in ("query", "data_dir", "run")}
        _check_types(values, get_type_hints(cls))
        _check_types({name: config[name] for name in schedule}, get_type_hints(Schedule))
        _check_types(config["query"], get_type_hints(Query), "query.")
        if config["seeds"] < 1:
            raise UserError(f"seeds={config['seeds']} must be a whole number, at least 1")
        if config["only"] not in (None, "data", "answers"):
            raise UserError(f"only={config['only']}: it is null, data or answers")
        return cls(
            **values,
            query=Query(**config["query"]),
            schedule=Schedule(**{name: config[name] for name in schedule}),
            data_dir=Path(config["data_dir"]),
            run=Path(config["run"]) if config["run"] else None,
            plain=config,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other."""
        return {name: value for name, value in self.plain.items() if name not in MAY_CHANGE}


def check_names(what: str, given: dict[str, Any], known: set[str]) -> None:
    """Raises UserError where a name means nothing."""
    unknown = set(given) - known
    if unknown:
        raise UserError(f"{what} has no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}")


def _check_types(values: dict[str, Any], hints: dict[str, Any], prefix: str = "") -> None:
    for name, value in values.items():
        kinds = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        plain = tuple(kind for kind in kinds if isinstance(kind, type) and kind in (int, bool, str, float, type(None)))
        is_number_for_bool = isinstance(value, bool) and bool not in plain
        fits = isinstance(value, plain) or (float in plain and isinstance(value, int))
        if plain and (not fits or is_number_for_bool):
            names = " or ".join(TYPE_NAMES.get(kind, kind.__name__) for kind in plain)
            raise UserError(f"{prefix}{name}={value} must be {names}")
