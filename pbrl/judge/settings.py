"""The command's settings, checked before anything is read; and the sources that they name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from pbrl.ranges import Count, Range, Seed, Size, check_values, hints
from pbrl.settings import check_data, check_names
from pbrl.types import UserError

IS_ADDRESS = re.compile(r"^\w+(\+\w+)?://")


class Settings(TypedDict):
    """See configs/judge.yaml."""

    rewards: str | None
    store: str | None
    rater: str | None
    file: str | None
    sources: dict[str, Any] | None
    kind: Literal["pair", "ranking", "rating"] | None
    query: dict[str, Any]
    demonstrations: bool
    changes: list[Literal["camera", "light"]]
    turn_deg: Annotated[float, Range(-180, 180)]
    light: list[Annotated[float, Range(0, 4)]]
    shown: dict[str, Any]
    resamples: Annotated[int, Range(100, 1_000_000)]
    seed: Seed
    folder: str
    device: str
    data_dir: str
    data_seed: Seed
    workers: Annotated[int, Range(-1, 4096)]


class Compared(TypedDict):
    """Which clips are compared by what gives rewards or values."""

    pairs: Literal["drawn", "asked"]
    count: Count
    length: Size | None
    seed: Seed


class Shown(TypedDict):
    """What the page shows of a few episodes."""

    frames: Annotated[int, Range(0, 32)]
    size: Annotated[int, Range(16, 512)]
    occlusion: Annotated[int, Range(0, 32)]


class Named(NamedTuple):
    """Where a source lies: a run folder, an .npz, or a store's address with a rater."""

    form: Literal["run", "file", "store"]
    place: str
    rater: str | None = None

    @classmethod
    def of(cls, name: str, given: Any) -> "Named":
        """What `sources={name: given}` says. Raises UserError."""
        if isinstance(given, dict):
            check_names(f"sources.{name}", given, {"store", "rater"})
            if not isinstance(given.get("store"), str) or not isinstance(given.get("rater", ""), str | None):
                raise UserError(f"sources.{name} is {{store: an address, rater: a name}}, not {given}")
            return cls("store", given["store"], given.get("rater"))
        if not isinstance(given, str) or not given:
            raise UserError(f"sources.{name}={given}: a run folder, a store's address or an .npz")
        if IS_ADDRESS.match(given):
            return cls("store", given)
        return cls("file", given) if given.endswith((".npz", ".npy")) else cls("run", given)


def check(config: dict[str, Any]) -> None:
    """Raises UserError where a setting has no meaning."""
    check_names("the command line", config, {*hints(Settings), "env", "data"})
    check_values(config, hints(Settings))
    check_names("query", config["query"], set(hints(Compared)))
    check_values(config["query"], hints(Compared), "query.")
    check_names("shown", config["shown"], set(hints(Shown)))
    check_values(config["shown"], hints(Shown), "shown.")
    if len(config["light"]) != 3:
        raise UserError(f"light={config['light']}: three numbers, of red, green and blue")
    if config.get("data"):
        check_data(config["data"])
    if config["rater"] and not config["store"]:
        raise UserError(
            f"rater={config['rater']} is one of a store: add store=…, or sources={{name: {{store, rater}}}}"
        )


def find_changes(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `Environment.change_view` takes, by the name of each of `changes`."""
    known = {"camera": {"turn_deg": config["turn_deg"]}, "light": {"light": config["light"]}}
    return {name: known[name] for name in config["changes"]}


def find_sources(config: dict[str, Any]) -> dict[str, Named]:
    """The sources by the names that the report has for them. Raises UserError where there are none."""
    found = {str(name): Named.of(str(name), given) for name, given in (config["sources"] or {}).items()}
    single = [
        (Path(config["rewards"] or "").name or "rewards", "run", config["rewards"], None),
        (config["rater"] or "answers", "store", config["store"], config["rater"]),
        (Path(config["file"] or "").stem, "file", config["file"], None),
    ]
    for name, form, place, rater in single:
        if place:
            if name in found:
                raise UserError(f"two sources are called {name}: name them by sources={{…}}")
            found[name] = Named(form, place, rater)  # type: ignore[arg-type]
    if not found:
        raise UserError(
            "there is nothing to judge: add rewards=<run folder>, store=<address> rater=<name>, file=<scores.npz>, or "
            "several by sources={name: …}"
        )
    return found
