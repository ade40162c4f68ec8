"""The archive against its definition, and what a search goes on from."""

import pickle
import sys

import numpy as np
import pytest

from pbrl.data.behaviours import SALT, Waves
from pbrl.diversity.page import choose
from pbrl.diversity.search import Rated, Search, bounds_of
from pbrl.diversity.settings import SearchSettings
from pbrl.types import UserError
from tests import toy

pytest.importorskip("ribs", reason="needs pyribs: pip install -e '.[diversity]'")
PLAIN = dict(quality="return", population=30, iterations=5, emitter="gaussian", emitters=2, batch_size=8, sigma=0.1,
             line=0.2, cells=4, margin=0.0, offset=-2.0, steps=None, scene=0)  # fmt: skip
GRID = np.array([[0.0, 1.0], [0.0, 1.0]])


def rate(solutions: np.ndarray) -> Rated:
    """Measures are the first two parameters, the quality is minus the third."""
    return Rated(solutions, -solutions[:, 2], solutions[:, 3:].astype(np.float32), solutions[:, :2])


def begin(**changes) -> tuple[Search, list[Rated]]:
    first = rate(np.random.default_rng(0).random((30, 5)))
    return Search(SearchSettings(**{**PLAIN, **changes}), first, GRID, seed=0), [first]


def step(search: Search) -> Rated:
    found = rate(search.ask())
    search.tell(found.quality, found.features, found.measures)
    return found


def test_each_cell_holds_the_best_that_ever_fell_into_it():
    search, seen = begin()
    seen += [step(search) for _ in range(20)]
    every = Rated(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))
    assert (every.solutions >= 0).all() and (every.solutions <= 1).all()
    cell = np.clip((4 * every.measures).astype(int), 0, 3) @ [4, 1]
    best = {int(c): every.quality[cell == c].max() for c in np.unique(cell)}
    elites = search.elites
    found = np.clip((4 * elites.measures).astype(int), 0, 3) @ [4, 1]
    assert dict(zip(found.tolist(), elites.quality.tolist(), strict=True)) == best
    np.testing.assert_array_equal(elites.features, elites.solutions[:, 3:].astype(np.float32))
    report = search.report()
    assert report["coverage"] == len(best) / 16 and report["qd_score"] == pytest.approx(
        sum(q + 2 for q in best.values())
    )


@pytest.mark.parametrize("emitter", ["gaussian", "line", "cma"])
def test_a_search_that_was_saved_goes_on_to_the_same_bits(emitter):
    search, _ = begin(emitter=emitter)
    for _ in range(3):
        step(search)
    other = pickle.loads(pickle.dumps(search))
    for _ in range(10):
        np.testing.assert_array_equal(step(search).solutions, step(other).solutions)
    assert search.report() == other.report()


def test_the_grid_is_wider_than_the_data_and_never_empty():
    found = bounds_of(np.array([[0.0, 3.0], [10.0, 3.0]]), 0.2)
    np.testing.assert_allclose(found, [[-2, 12], [3, 3]], atol=1e-5)
    assert found[1, 0] < found[1, 1]


def test_the_best_of_each_part_is_shown():
    search, _ = begin()
    shown, elites = choose(search, 2), search.elites
    assert len(shown.places) == len(np.unique(shown.places, axis=0)) <= 4
    for place, solution, quality in zip(shown.places, shown.solutions, shown.quality, strict=True):
        inside = ((2 * elites.measures).astype(int) == place).all(1)
        assert quality == elites.quality[inside].max() == -solution[2]


def test_pyribs_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ribs.archives", None)
    with pytest.raises(UserError, match=r"takes pyribs: pip install -e '\.\[diversity\]'"):
        begin()


def test_waves_that_are_given_are_those_that_a_seed_draws():
    """Frequency, size, phases and middles, in the order in which data=waves draws them, and within its limits."""
    waves = Waves(low_hz=0.5, high_hz=3.0, size=0.7)
    waves.start([toy.Point()], [5])  # type: ignore[list-item]
    random = np.random.default_rng([5, SALT])
    hz, size = random.uniform(0.5, 3.0), random.uniform(0, 0.7)
    phase, middle = random.uniform(0, 2 * np.pi, 2), random.uniform(-0.5, 0.5, 2)
    drawn = [waves.choose(0) for _ in range(4)]
    np.testing.assert_array_equal(drawn[0], middle + size * np.sin(phase))
    np.testing.assert_allclose(drawn[3], middle + size * np.sin(2 * np.pi * hz * 3 / 10 + phase))
    waves.take([np.random.default_rng([5, SALT]).random(Waves.count_parameters(2))])
    np.testing.assert_array_equal([waves.choose(0) for _ in range(4)], drawn)
