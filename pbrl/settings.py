"""The settings of a run, typed, and checked before anything is made.

`RunSettings.parse` turns what the command line composed into plain, typed values; the parts of a run (environment,
algorithm, reward model, …) are configs with a `_target_`, whose keys are compared with the parameters of its target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pbrl.feedback.kinds import NAME
from pbrl.feedback.strategies import STRATEGIES, needs_reward
from pbrl.ranges import Count, Port, Range, Seed, Share, ShareBelow1, Size, Whole, check_values, hints
from pbrl.types import UserError


@dataclass(frozen=True)
class Query:
    """What is asked: `count` questions in `rounds`, about segments of `length` steps.

    `kind` is pair, rating, ranking (of `clips`; of a source that compares only pairs, pairs that sort segments into
    lists, with `per_list` of them spent on each), attributes: which of two segments has more of each of `attributes`,
    triplet (which of two segments is more like a first one, perhaps in `attributes`), or spans: stretches marked in a
    segment as good or bad, which are cut into pieces of `span` steps to learn from. `seed` decides which are asked:
    runs with different seeds of their own learn from the same answers.
    """

    kind: str
    count: Count
    rounds: Count
    length: Size
    span: Size
    strategy: str
    candidates: Size
    per_list: Count
    held_out: ShareBelow1
    seed: Seed
    clips: Count = 4
    attributes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_values(vars(self), hints(Query), "query.")
        if self.kind not in ("pair", "rating", "ranking", "attributes", "triplet", "spans"):
            raise UserError(f"query.kind={self.kind}: it is pair, rating, ranking, attributes, triplet or spans")
        self._check_attributes()
        if self.kind == "spans" and self.span > self.length:
            raise UserError(f"query.span={self.span} lies between 1 and query.length={self.length}")
        if self.kind == "ranking" and not 3 <= self.clips <= 5:
            raise UserError(f"query.clips={self.clips}: a ranking is of 3 to 5 clips")
        if self.rounds > self.count:
            raise UserError(f"query.rounds={self.rounds} lies between 1 and query.count={self.count}")
        if self.strategy not in STRATEGIES:
            raise UserError(f"query.strategy={self.strategy}: it is one of {', '.join(STRATEGIES)}")
        if needs_reward(self.strategy) and self.rounds == 1:
            raise UserError(
                f"query.strategy={self.strategy} chooses by what the reward model has learnt from earlier rounds: "
                "query.rounds=2 or more"
            )
        if self.kind not in ("pair", "triplet") and self.strategy != "uniform":
            raise UserError(f"query.strategy chooses pairs or triplets: with query.kind={self.kind} it must be uniform")

    def _check_attributes(self) -> None:
        names = list(self.attributes or ())
        if self.kind not in ("attributes", "triplet"):
            if names:
                raise UserError(f"query.attributes={names} are what query.kind=attributes asks about: leave them out")
            return
        if self.kind == "attributes" and not names:
            raise UserError(
                "query.kind=attributes asks about attributes by name: add query.attributes=[speed,height] or others"
            )
        if len(set(names)) < len(names) or not all(0 < len(name) <= NAME for name in names):
            raise UserError(f"query.attributes={names}: each is named once, in up to {NAME} characters")

    @property
    def width(self) -> int:
        """Clips of a question."""
        return {"pair": 2, "attributes": 2, "triplet": 3, "ranking": self.clips}.get(self.kind, 1)

    @property
    def learnt_length(self) -> int:
        """Steps of a segment as learners get it."""
        return self.span if self.kind == "spans" else self.length


Episodes = Annotated[int, Range(1, 100_000)]


@dataclass(frozen=True)
class Schedule:
    """In updates: how long the algorithm trains, and how often it is logged, evaluated and saved; and the episodes.

    `eval_seed` decides which episodes: choose settings with one, report another.
    """

    steps: Count
    log_every: Count
    eval_every: Count
    checkpoint_every: Count
    eval_episodes: Episodes
    final_episodes: Episodes
    eval_seed: Annotated[int, Range(0, 20_000)] = 0  # each has 100,000 seeds of episodes, which fit in 31 bits

    def __post_init__(self) -> None:
        check_values(vars(self), hints(Schedule))
        if self.checkpoint_every % self.log_every:
            raise UserError(f"checkpoint_every={self.checkpoint_every} is not a multiple of log_every={self.log_every}")


Part = dict[str, Any]  # a config with a `_target_`: the name of a class or function, and its arguments
PARTS = ("env", "feedback", "reward", "algo", "objective", "reward_objective", "policy", "baseline")
MAY_CHANGE = {  # when a run goes on; the rest makes it another run
    "device", "threads", "workers", "compile", "only", "compare", "baseline", "video", "logger", "run", "store",
    "data_dir", "checkpoint_every", "grow",
}  # fmt: skip


MODEL_MAY_CHANGE = {  # of a model that answers
    "base_url", "key_env", "check_model", "concurrency", "timeout_s", "retries", "backoff_s", "max_tokens_name",
    "price", "budget", "picture_tokens", "cache", "replay", "answer_key", "workers", "most_picture_bytes",
}  # fmt: skip


class Places(TypedDict):
    """What is asked, and where a run and its data lie."""

    query: dict[str, Any]
    data_dir: str
    run: str | None


class Recipe(TypedDict, total=False):
    """The sizes and shares of a data set's recipe; see configs/data."""

    name: str
    path: str | None
    episodes: Episodes
    success: Share | None
    skill: Share | list[Share]
    sac: dict[str, Any] | None
    behaviour: dict[str, Any] | None


class SACRun(TypedDict, total=False):
    """Those of a training run to take a data set from."""

    steps: Count
    keep_every: Count
    hidden: list[Size]
    learning_starts: Whole
    batch_size: Size


class Checks(TypedDict, total=False):
    """Those of the labelling page's checks of raters."""

    repeats: float  # whose ranges pbrl/label checks
    gold: float
    pass_mark: float


class Label(TypedDict, total=False):
    """The labelling page's settings; see configs/label.yaml."""

    run: str | None
    attached: bool
    store: str
    only_serve: bool
    wanted: Count
    instructions: str
    port: Port
    host: str
    rater: str
    names: list[str]
    fps: float | None
    answers_per_s: float | None
    camera: str | None
    cache: str
    cache_mb: Annotated[float, Range(1, 1e9)]
    data_dir: str
    data_seed: Seed
    workers: Annotated[int, Range(-1, 4096)]
    query: dict[str, Any]
    checks: dict[str, Any]


def check_label(config: dict[str, Any]) -> None:
    """Raises UserError where numbers of the labelling page's settings are no such numbers."""
    check_values(config, hints(Label))
    check_values(config["query"], hints(Query), "query.")
    check_values(config["checks"], hints(Checks), "checks.")
    check_data(config["data"])
    _check_numbers(config)


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
    vlm: dict[str, Any]
    schedule: Schedule
    seed: Seed
    seeds: Annotated[int, Range(1, 1000)]
    data_seed: Seed
    device: str
    threads: Annotated[int, Range(0, 4096)]
    compile: str
    bf16: bool | Literal["auto"]
    only: str | None
    workers: Annotated[int, Range(-1, 4096)]
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
        _check_present(config, own | schedule)
        values = {name: config[name] for name in own if name not in ("query", "data_dir", "run")}
        check_values(values, hints(cls))
        check_values({name: config[name] for name in ("query", "data_dir", "run")}, hints(Places))
        check_names("query", config["query"], {field.name for field in fields(Query)})
        _check_present(config["query"], {field.name for field in fields(Query)}, "query.")
        check_data(config["data"])
        _check_numbers(config)
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
        """What makes it this run and no other. Of a model that answers, how it is reached and paid for may change."""
        return {name: value for name, value in self.named.items() if name not in MAY_CHANGE}

    @property
    def named(self) -> dict[str, Any]:
        """What a run's folder is named after: all settings but how a model that answers is reached and paid for."""
        found = {name: value for name, value in self.plain.items() if name != "vlm"}
        found["feedback"] = _deciding(self.feedback)
        return found


def _deciding(feedback: Part) -> Part:
    """A feedback source's settings without how its model is reached and paid for; of a routed one, its model's."""
    found = dict(feedback)
    if isinstance(found.get("model"), dict):
        found["model"] = _deciding(found["model"])
    if isinstance(found.get("vlm"), dict):
        found["vlm"] = {name: value for name, value in found["vlm"].items() if name not in MODEL_MAY_CHANGE}
    return found


def check_names(what: str, given: dict[str, Any], known: set[str]) -> None:
    """Raises UserError where a name means nothing."""
    unknown = set(given) - known
    if unknown:
        raise UserError(f"{what} has no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}")


def _check_present(given: dict[str, Any], wanted: set[str], prefix: str = "") -> None:
    """Raises UserError where a setting is missing, as where the command line took it away."""
    missing = sorted(wanted - set(given))
    if missing:
        name = f"{prefix}{missing[0]}"
        advice = f"choose one of configs/{missing[0]}" if name in PARTS else f"give it a value, as in {name}=…"
        raise UserError(f"there is no {name}, which `~{name}` on the command line takes away: {advice}")


def check_data(data: dict[str, Any]) -> None:
    """Raises UserError where sizes and shares of a data set's recipe are no such numbers."""
    _check_present(data, {"name"}, "data.")
    check_values(data, hints(Recipe), "data.")
    check_values(data.get("sac") or {}, hints(SACRun), "data.sac.")


def _check_numbers(value: Any, name: str = "") -> None:
    """Raises UserError for a NaN anywhere: no setting takes it."""
    if isinstance(value, float) and math.isnan(value):
        raise UserError(f"{name}={value} must be a number")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        _check_numbers(inner, f"{name}.{key}".lstrip("."))
