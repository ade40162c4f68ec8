"""The command's settings, typed, and checked before anything is made."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pbrl.diversity.projection import Learning
from pbrl.ranges import Count, Finite, NotNegative, Positive, Range, Seed, Share, Size, check_values, hints
from pbrl.settings import Part, Query, check_data, check_names
from pbrl.types import UserError

Few = Annotated[int, Range(1, 100)]
MAY_CHANGE = ("run", "store", "data_dir", "workers", "checkpoint_every", "pictures")  # when a search goes on


@dataclass(frozen=True)
class SearchSettings:
    """MAP-Elites; see configs/diversity.yaml."""

    quality: str
    population: Size
    iterations: Count
    emitter: Literal["gaussian", "line", "cma"]
    emitters: Few
    batch_size: Annotated[int, Range(2, 10**6)]
    sigma: Positive
    line: NotNegative
    cells: Annotated[int, Range(2, 1000)]
    margin: NotNegative
    offset: Finite
    steps: Size | None
    scene: Seed

    def __post_init__(self) -> None:
        check_values(vars(self), hints(SearchSettings), "search.")


class Asked(TypedDict):
    """What is asked."""

    count: Count
    length: Size
    attributes: list[str] | None
    seed: Seed
    held_out: Share


class Shown(TypedDict):
    """The pictures of the page."""

    parts: Few
    frames: Few
    size: Annotated[int, Range(16, 1024)]


@dataclass(frozen=True)
class Settings:
    """All settings of a search; see configs/diversity.yaml for what each means."""

    env: Part
    data: dict[str, Any]
    feedback: Part
    objective: Part
    query: Query
    rounds: list[Share]
    behaviours: Size
    projection: Learning
    waves: dict[str, Any]
    search: SearchSettings
    pictures: dict[str, Any]
    run: str | None
    store: str | None
    checkpoint_every: Count
    seed: Seed
    data_dir: str
    data_seed: Seed
    workers: Annotated[int, Range(-1, 4096)]
    reference: dict[str, Any] | None
    plain: dict[str, Any]  # all of them as they were composed

    @classmethod
    def parse(cls, config: dict[str, Any]) -> "Settings":
        """Typed settings. Raises UserError for a name that means nothing, or a value of another type."""
        check_names("the command line", config, {field.name for field in fields(cls)} - {"plain"})
        parts = {"projection": Learning, "search": SearchSettings}
        given = {name: config[name] for name in config if name not in (*parts, "query")}
        check_values(given, hints(cls))
        shapes: dict[str, type] = {**parts, "query": Asked, "pictures": Shown}
        for name, shape in shapes.items():
            check_names(name, config[name], set(hints(shape)))
            check_values(config[name], hints(shape), f"{name}.")
        check_data(config["data"])
        rounds = config["rounds"]
        if not rounds or rounds[0] != 0 or sorted(set(rounds)) != list(rounds):
            raise UserError(f"rounds={rounds}: shares of the search in rising order, and the first is 0")
        made = {name: shape(**config[name]) for name, shape in parts.items()}
        return cls(**given, **made, query=_query(config["query"], len(rounds)), plain=config)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this search and no other: its number of iterations may grow."""
        found = {name: value for name, value in self.plain.items() if name not in MAY_CHANGE}
        return {**found, "search": {k: v for k, v in found["search"].items() if k != "iterations"}}

    def round_at(self, share: float) -> int:
        """How many rounds of answers there are up to this share of the search."""
        return sum(share >= start for start in self.rounds)

    def folder(self) -> Path:
        """Where the search lives: named by the user, or after its settings."""
        from pbrl.run.build import digest
        from pbrl.run.folder import env_name

        if self.run:
            return Path(self.run).expanduser()
        return Path("runs") / env_name(self.env).replace("/", "-") / f"diversity-{digest(self.identity)}"


def _query(asked: dict[str, Any], rounds: int) -> Query:
    """Triplets of segments from anywhere."""
    return Query("triplet", **asked, rounds=rounds, span=1, strategy="uniform", candidates=1, per_list=1)
