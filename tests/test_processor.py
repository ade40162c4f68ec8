"""How many cores a process may use: those it may run on, and no more than its container's time is worth."""

import os

import pytest

from pbrl.data.rollout import worker_count
from pbrl.processor import available_cores, processor_name


@pytest.mark.parametrize("quota,cores", [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("nonsense", 4)])
def test_a_containers_quota_counts(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(tmp_path) == cores


def test_a_quota_as_older_kernels_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, value in (("quota", "200000"), ("period", "100000")):
        (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(value)
    assert available_cores(tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert available_cores(tmp_path) == 4


def test_workers_and_the_name():
    assert worker_count(-1) == available_cores() >= 1 and worker_count(3) == 3
    assert ", " in processor_name()
