"""What a run hands to its feedback source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pbrl.data.table import Table
from pbrl.feedback.store.store import Store

if TYPE_CHECKING:
    from pbrl.data.rollout import Players


@dataclass(frozen=True)
class Context:
    """A run, as its feedback source needs to know it."""

    store: Store
    table: Table
    folder: Path  # of the run; a labelling page reads its config.yaml
    data_dir: Path  # where data sets lie, and what is computed about them once
    players: Callable[[], "Players"]  # workers that play the run's environment, made when they are first wanted
