"""MAP-Elites by pyribs: a grid over the measures that holds the best solution of each cell, and what emits new ones.

Mouret & Clune 2015, arXiv:1504.04909; with emitter=line Vassiliades & Mouret 2018, arXiv:1804.03906, with emitter=cma
CMA-ME, Fontaine et al. 2020, arXiv:1912.02400. A search pickles whole, and goes on to the same bits.
"""

from typing import Any, NamedTuple

import numpy as np

from pbrl.diversity.settings import SearchSettings
from pbrl.types import UserError

MISSING = "the search takes pyribs: pip install -e '.[diversity]'"


class Rated(NamedTuple):
    """Solutions [N, P] with their qualities [N], features [N, F] and measures [N, M]."""

    solutions: np.ndarray
    quality: np.ndarray
    features: np.ndarray
    measures: np.ndarray


class Search:
    """An archive and its emitters. Features stay beside solutions, so that other measures can be taken of them."""

    def __init__(self, settings: SearchSettings, first: Rated, bounds: np.ndarray, seed: int):
        """`bounds` [M, 2] are those of the grid; what lies beyond belongs to its outermost cells."""
        try:
            from ribs.archives import GridArchive
            from ribs.schedulers import Scheduler
        except ImportError as error:
            raise UserError(MISSING) from error
        size, features = first.solutions.shape[1], first.features.shape[1]
        self.archive = GridArchive(
            solution_dim=size,
            dims=[settings.cells] * len(bounds),
            ranges=[tuple(each) for each in bounds],
            qd_score_offset=settings.offset,
            seed=seed,
            extra_fields={"features": ((features,), np.float32)},
        )
        self.archive.add(first.solutions, first.quality, first.measures, features=first.features)
        self.scheduler = Scheduler(self.archive, make_emitters(settings, self.archive, size, seed))

    @property
    def bounds(self) -> np.ndarray:
        """The ends of the grid: [2, M]."""
        return np.stack([self.archive.lower_bounds, self.archive.upper_bounds])

    def ask(self) -> np.ndarray:
        """New solutions [N, P] in [0, 1]."""
        return self.scheduler.ask()

    def tell(self, quality: np.ndarray, features: np.ndarray, measures: np.ndarray) -> None:
        """How the solutions that were asked for turned out."""
        self.scheduler.tell(quality, measures, features=features)

    @property
    def elites(self) -> Rated:
        """What the archive holds, in the order of its cells."""
        data = self.archive.data()
        order = np.argsort(data["index"])
        return Rated(*(data[name][order] for name in ("solution", "objective", "features", "measures")))

    def report(self) -> dict[str, Any]:
        """Coverage, QD score (Pugh et al. 2016, doi:10.3389/frobt.2016.00040), the best and the mean quality."""
        stats = self.archive.stats
        return {
            "elites": stats.num_elites,
            "coverage": float(stats.coverage),
            "qd_score": float(stats.qd_score),
            "best": float(self.elites.quality.max()),
            "mean": float(self.elites.quality.mean()),
        }


def make_emitters(settings: SearchSettings, archive: Any, size: int, seed: int) -> list[Any]:
    """`settings.emitters` emitters of solutions [size], each with random numbers of its own."""
    from ribs.emitters import EvolutionStrategyEmitter, GaussianEmitter, IsoLineEmitter

    kind, own = {
        "gaussian": (GaussianEmitter, {"sigma": settings.sigma}),
        "line": (IsoLineEmitter, {"iso_sigma": settings.sigma, "line_sigma": settings.line}),
        "cma": (EvolutionStrategyEmitter, {"sigma0": settings.sigma}),
    }[settings.emitter]
    common: dict[str, Any] = {"x0": np.full(size, 0.5), "bounds": [(0, 1)] * size, "batch_size": settings.batch_size}
    return [kind(archive, **own, **common, seed=seed + i) for i in range(settings.emitters)]


def bounds_of(measures: np.ndarray, margin: float) -> np.ndarray:
    """The range of measures [N, M], wider by a share `margin` of it at both ends: [M, 2]."""
    low, high = measures.min(0), measures.max(0)
    wider = margin * (high - low) + 1e-6  # never empty
    return np.stack([low - wider, high + wider], 1)
