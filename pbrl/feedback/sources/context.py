"""What a run hands to its feedback source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbrl.data.rollout import RolloutWorkers
from pbrl.data.table import Table
from pbrl.feedback.store.store import Store
from pbrl.settings import Query


@dataclass(frozen=True)
class Context:
    """A run, as its feedback source needs to know it; asked from a program, it has neither folder nor environment."""

    store: Store
    table: Table
    query: Query
    data_dir: Path  # where data sets lie, and what is computed about them once
    dataset: str = ""  # content hash of the data set
    folder: Path | None = None  # of the run; a labelling page reads its config.yaml
    workers: RolloutWorkers | None = None  # rollout workers of the run's environment
    experts: RolloutWorkers | None = None  # the same without cameras, for scripted experts
    source: dict[str, Any] | None = None  # what `collect.load_dataset` takes: for those who show clips
    instruction: str = ""  # the environment's task in words
