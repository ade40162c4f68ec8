"""Children end within seconds of the process that started them, also where that was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbrl import processes

ROLLOUT = """
import os, sys, threading
from pbrl.data.rollout import RolloutWorkers

def whose(envs, share):
    return os.getpid(), os.getppid()

def stuck(envs, share):
    import ctypes
    print("ready", flush=True)
    ctypes.PyDLL(None).sleep(1000)  # holds Python's lock all the time

def start():
    found.update(pid for _, pids in workers.map(whose, [[0]] * 8) for pid in pids)

if __name__ == "__main__":
    workers, found = RolloutWorkers({"_target_": "tests.toy.Point"}, 2), set()
    if sys.argv[1] == "by a thread":
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        found.update(pid for _, pids in workers.map(whose, [[0]] * 8) for pid in pids)
        print(*found, flush=True)
        sys.stdin.read()
    start()
    print(*found, flush=True)
    list(workers.map(stuck, [[0]] * 2))
"""
RENDERER = """
import sys
from pathlib import Path
from pbrl.data.rendering import Renderers

if __name__ == "__main__":
    renderers = Renderers({"env": {"_target_": "tests.toy.Point"}, "data": {}, "folder": Path("."), "seed": 0})
    if sys.argv[1] == "idle":
        renderers.pool.submit(int).result()
    print(*renderers.pool._processes, flush=True)
    sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int], timeout_s: float) -> list[int]:
    until = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("script", "what", "sign"), [
    (ROLLOUT, "stuck", signal.SIGKILL),  # Linux ends them
    (ROLLOUT, "by a thread", signal.SIGTERM),  # they end themselves, and live on after the thread that started them
    (RENDERER, "idle", signal.SIGKILL),
    (RENDERER, "starting", signal.SIGTERM),
])  # fmt: skip
def test_children_end_with_their_parent(tmp_path, script, what, sign):
    (tmp_path / "parent.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        assert children and all(map(is_running, children))
        if what == "stuck":
            assert parent.stdout.readline() == "ready\n"
        parent.send_signal(sign)
        parent.wait()
        assert wait_until_gone(children, 5.0) == []
    finally:
        for pid in filter(is_running, children):
            os.kill(pid, signal.SIGKILL)
        parent.kill()
        parent.wait()


def test_a_process_without_a_parent_of_ours_stays():
    processes.end_with_parent(by_kernel=False)
    assert processes.is_main_thread()


def test_renderers_start_without_what_takes_long():
    """What a renderer imports, and the page's own module, which it imports again; PyTorch takes seconds."""
    code = "import sys, pbrl.feedback.page.clips, pbrl.label.__main__, pbrl.data.collect; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_signals_count_after_the_block():
    """A signal while processes start is seen when they have; the handlers are those from before."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("handled"))
    try:
        with processes.delay_signals():
            signal.raise_signal(signal.SIGTERM)
            seen.append("started")
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["started", "handled", "handled"]
