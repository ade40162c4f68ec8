"""The folder of a run: its name, the folders of its seeds, and what the run is made of."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from pbrl import files
from pbrl.data.episodes import versions
from pbrl.data.opening import load_json
from pbrl.feedback.store.address import without_password
from pbrl.processor import processor_name
from pbrl.run.build import digest, name_of
from pbrl.run.lock import hold
from pbrl.settings import RunSettings
from pbrl.training.precision import Precision, choose_precision
from pbrl.types import UserError


def run_folder(settings: RunSettings) -> Path:
    """Where the run lives: named by the user, or after its settings."""
    if settings.run:
        return settings.run
    first, last = settings.seed, settings.seed + settings.seeds - 1
    seeds = f"seed{first}" + (f"to{last}" if settings.seeds > 1 else "")
    parts = [name_of(settings.algo), name_of(settings.reward), seeds, digest(settings.named)]
    return Path("runs") / env_name(settings.env).replace("/", "-") / "-".join(filter(None, parts)).lower()


def env_name(env: dict[str, Any]) -> str:
    """What an environment is called: "MetaWorld/button-press"."""
    return env.get("name") or "/".join(filter(None, [name_of(env), env.get("task", "")]))


def make_folder(folder: Path) -> Path:
    """The folder, made. Raises UserError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder} ({error}): choose another with run=…") from error
    return folder


def seed_folders(settings: RunSettings, folder: Path) -> list[tuple[int, Path]]:
    """Each seed and its folder: of one, the run's own."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [(seed, folder / f"seed{seed}" if settings.seeds > 1 else folder) for seed in seeds]


@contextmanager
def hold_folder(settings: RunSettings, folder: Path) -> Iterator[None]:
    """Keeps a run's folder, and those of its seeds, for this process. Raises UserError where another run has one."""
    advice = "wait for it, stop it, or choose another folder with run=…"
    with ExitStack() as stack:
        for own in dict.fromkeys([folder, *(own for _, own in seed_folders(settings, folder))]):
            stack.enter_context(hold(make_folder(own), "another run", advice))
        yield


def settle_precision(folder: Path, settings: RunSettings, device: torch.device) -> Precision:
    """The precision that a run began with, else what is best on this device."""
    known = _read_provenance(folder) or {}
    if "precision" in known:
        return Precision(known["precision"]["bf16"], known["precision"]["is_chosen"])
    return choose_precision(settings.bf16, device)


def write_provenance(
    folder: Path, settings: RunSettings, dataset: str, precision: Precision, encoders: dict[str, Any]
) -> None:
    """Writes what the run is made of, once: going on with it changes nothing of that, and is noted beside it."""
    made_with = {"git": git_commit(), "data": dataset, **encoders, **versions(), "processor": processor_name()}
    first, known = folder / "versions.json", _read_provenance(folder)
    if known is None:
        _write_configs(folder, settings)
        files.write_json(first, {**made_with, "precision": precision._asdict()})
    elif known | made_with != known:
        known["continued_with"] = [*known.get("continued_with", []), made_with]
        files.write_json(first, known)


def _read_provenance(folder: Path) -> dict[str, Any] | None:
    """What the run in a folder was made of, once it has a checkpoint. Raises UserError where that is damaged."""
    first = folder / "versions.json"
    if not (first.exists() and (folder / "checkpoint.pt").exists()):
        return None
    try:
        found = load_json(first)
    except UserError as error:
        raise UserError(f"{error}: delete it, and it is written again") from error
    precision = found.get("precision", {"bf16": False, "is_chosen": False})
    if not isinstance(precision, dict) or not all(isinstance(precision.get(k), bool) for k in Precision._fields):
        raise UserError(
            f"{first}: precision is not what a run writes there ({precision!r:.60}): put back what was changed"
        )
    return found


def _write_configs(folder: Path, settings: RunSettings) -> None:
    _write_config(folder, without_password(settings.plain))
    for seed, own in seed_folders(settings, folder) if settings.seeds > 1 else []:
        alone = {**without_password(settings.plain), "seed": seed, "seeds": 1, "run": str(own)}
        _write_config(make_folder(own), alone)


def _write_config(folder: Path, plain: dict[str, Any]) -> None:
    with files.replacing(folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(plain, sort_keys=False))


def git_commit() -> str:
    """The commit of this code, with `-dirty` where files that git tracks differ from it; "" outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        return ""
