"""Requests of many raters share a turn, and one that fails is no other's trouble."""

import threading

from pbrl.feedback.store.writer import Turns


def test_who_comes_while_others_gather_shares_their_turn():
    seen: list[list[int]] = []

    def work(jobs):
        seen.append(list(jobs))
        return [job if job != 2 else ValueError("two") for job in jobs]

    with Turns(work, "test", gather_s=0.5) as turns:
        first = turns.put(1)
        others: list = []
        threading.Timer(0.05, lambda: others.extend(turns.put(job) for job in (2, 3))).start()
        assert first.result() == 1
        assert isinstance(others[0].exception(), ValueError) and others[1].result() == 3
    assert seen == [[1, 2, 3]]


def test_a_turn_that_fails_as_a_whole_ends_no_thread():
    def work(jobs):
        if 0 in jobs:
            raise OSError("no disk")
        return jobs

    with Turns(work, "test") as turns:
        assert isinstance(turns.put(0).exception(timeout=10), OSError)
        assert turns.put(1).result(timeout=10) == 1
