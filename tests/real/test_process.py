"""Reports that processes share: whole at any moment of a write, whatever becomes of the writer."""

import mmap
import os
import signal
import time

import numpy as np
import pytest

from real.control import Report
from real.process import HEAD, PAGE, READ_S, SLOT, SharedReport


def make_report(number: int, words: int = 1) -> Report:
    """A report whose parts all say its number."""
    detail = f"{number} " * words
    return Report(float(number), "moving", "", detail, None, 0.0, np.full(7, float(number)), 0.0, {"n": number})


def is_whole(report: Report) -> bool:
    number = report.count["n"]
    return (report.t, set(report.detail.split())) == (number, {str(number)}) and bool((report.sent == number).all())


def test_a_reader_gets_the_newest_report():
    memory = bytearray(PAGE)
    writer, reader = SharedReport(memory), SharedReport(memory)
    assert reader.read() is None, "before the first one"
    for number in range(1, 6):
        writer.write(make_report(number))
        report = reader.read()
        assert report is not None and report.count["n"] == number and is_whole(report)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_write_that_is_not_finished_changes_nothing(share):
    """A writer that was killed after so much of it; and one that is stopped there for long."""
    before, after = bytearray(PAGE), bytearray(PAGE)
    for memory in (before, after):
        for number in (1, 2):
            SharedReport(memory).write(make_report(number))
    SharedReport(after).write(make_report(3, words=100))
    cut = 8 + round(share * 2 * SLOT)  # the number, in the first 8 bytes, is written last
    begun, report = time.monotonic(), SharedReport(before[:8] + after[8:cut] + before[cut:]).read()
    assert report is not None and report.count["n"] == 2 and is_whole(report)
    assert time.monotonic() - begun < READ_S


@pytest.mark.parametrize("head", [(0, 0), (0, 7), (40, 0), (2**63, 1)])
def test_a_slot_that_is_being_written_is_read_again_and_then_the_report_before_stands(head):
    memory = bytearray(PAGE)
    shared = SharedReport(memory)
    shared.write(make_report(1))
    report = shared.read()
    assert report is not None
    HEAD.pack_into(memory, 8 + SLOT, *head)  # of report 1, as a write clears it before it packs
    assert shared.read() is report, "no assertion, no EOFError"
    assert SharedReport(memory).read() is None, "nor for one that has read none"


def test_a_long_sentence_does_not_end_the_writer():
    memory = bytearray(PAGE)
    SharedReport(memory).write(make_report(1, words=SLOT))
    report = SharedReport(memory).read()
    assert report is not None and report.detail.startswith("1 1 1")


def test_a_fast_writer_and_a_fast_reader_for_half_a_second():
    """Two processes; the writer is stopped and continued in the middle of what it does, and killed at the end."""
    memory = mmap.mmap(-1, PAGE)
    SharedReport(memory).write(make_report(1))
    writer = os.fork()
    if writer == 0:
        shared, number, end = SharedReport(memory), 1, time.monotonic() + 5
        while time.monotonic() < end:
            number += 1
            shared.write(make_report(number, words=1 + number % 100))
        os._exit(0)
    reader, reads, newest, end = SharedReport(memory), 0, 0, time.monotonic() + 0.5
    try:
        while time.monotonic() < end:
            if reads % 50 == 49:
                os.kill(writer, signal.SIGSTOP if reads % 100 == 49 else signal.SIGCONT)
            report = reader.read()
            assert report is not None and is_whole(report) and report.count["n"] >= newest
            reads, newest = reads + 1, report.count["n"]
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert reads > 100 and newest > 100
    report = SharedReport(memory).read()
    assert report is not None and is_whole(report), "what a killed writer leaves is whole"
