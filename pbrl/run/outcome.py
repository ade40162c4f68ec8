"""What a run's folder holds, read back: settings, evaluations, answers, results; of a run that has ended or has not."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pbrl.training import log
from pbrl.types import UserError

RESULT = "result.json"
START = "start.json"  # what was known when training began: the header and the evaluation of the data set


def end_of(folder: Path) -> str | None:
    """When the run in a folder ended, to the minute; None where it has not."""
    results = [*folder.glob(RESULT), *folder.glob(f"seed*/{RESULT}")]
    return f"{datetime.fromtimestamp(results[0].stat().st_mtime):%Y-%m-%d %H:%M}" if results else None


@dataclass(frozen=True)
class SeedOutcome:
    """One seed: its folder, its number, and the folder of its baseline (which may be missing)."""

    number: int
    folder: Path
    baseline: Path

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds; None before the run has ended."""
        return read_json(self.folder / RESULT)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The events of `metrics.jsonl`."""
        return log.read(self.folder) if (self.folder / "metrics.jsonl").exists() else []

    def phase(self, name: str) -> list[dict[str, Any]]:
        """The events of one phase."""
        return [event for event in self.events if event["phase"] == name]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations of the policy, in order."""
        return [event for event in self.phase("evaluate") if event["of"] == "policy"]

    @property
    def pretrained(self) -> dict[str, Any] | None:
        """The evaluation after pretraining, before preferences are learned from."""
        return next((event for event in reversed(self.phase("evaluate")) if event["of"] == "pretrain"), None)

    @property
    def baseline_evaluations(self) -> list[dict[str, Any]]:
        """Evaluations of the baseline, in order."""
        return SeedOutcome(self.number, self.baseline, self.baseline).evaluations

    @property
    def best(self) -> dict[str, Any] | None:
        """The first of the best evaluations of the policy."""
        return max(self.evaluations, key=lambda event: event[measure(event)], default=None)


@dataclass(frozen=True)
class Outcome:
    """A run: its folder, its config as it was resolved, and its seeds."""

    folder: Path
    config: dict[str, Any]
    seeds: list[SeedOutcome]

    @cached_property
    def start(self) -> dict[str, Any]:
        """The header and the data's evaluation; empty in folders of versions that wrote none."""
        return read_json(self.folder / START) or {}

    @cached_property
    def versions(self) -> dict[str, Any]:
        """Versions and the hash of the data set."""
        return read_json(self.folder / "versions.json") or {}

    @property
    def is_finished(self) -> bool:
        """Whether every seed has a result."""
        return all(seed.result is not None for seed in self.seeds)

    @property
    def data(self) -> dict[str, Any] | None:
        """The evaluation of the data set."""
        result = self.seeds[0].result
        return result["data"] if result else self.start.get("evaluation")

    @property
    def step(self) -> int:
        """The last update of the policy that was logged for every seed."""
        return min(max((e["step"] for e in seed.phase("policy")), default=0) for seed in self.seeds)


def read(folder: Path) -> Outcome:
    """The run in a folder. Raises UserError where there is none."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
        number, count = config["seed"], config["seeds"]
    except OSError as error:
        raise UserError(f"{folder} is no run folder: it has no config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the config of a run ({type(error).__name__})") from error
    if count == 1:
        return Outcome(folder, config, [SeedOutcome(number, folder, _baseline(folder))])
    seeds = [SeedOutcome(i, folder / f"seed{i}", folder / "bc" / f"seed{i}") for i in range(number, number + count)]
    return Outcome(folder, config, seeds)


def find(folder: Path) -> list[Path]:
    """The run folders in a folder, or the folder itself where it is one. Raises UserError where there are none."""
    if (folder / "config.yaml").exists():
        return [folder]
    inside = sorted(path.parent for path in folder.rglob("config.yaml"))
    found = [path for path in inside if not any(parent in inside for parent in path.parents)]
    if not found:
        raise UserError(f"{folder} holds no run: a run folder has a config.yaml")
    return found


def _baseline(folder: Path) -> Path:
    """A seed of several has its baseline in the folder of them all."""
    return folder.parent / "bc" / folder.name if (folder.parent / "bc" / folder.name).is_dir() else folder / "bc"


def measure(evaluation: dict[str, Any]) -> str:
    """Which number of an evaluation is compared: success where the task has it, else the mean return."""
    return "return_mean" if evaluation.get("success") is None else "success"


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where there is no file, or only part of one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
