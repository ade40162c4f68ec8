"""Programs that begin as forks end, print, and are killed as programs that `subprocess` starts."""

import os
import signal
import subprocess
import sys

import pytest

from tests import forks

CODES = {
    "prints": "import sys; print('out', sys.argv); print('err', file=sys.stderr)",
    "fails in a sentence": "import sys; sys.exit('no')",
    "fails by number": "import sys; sys.exit(3)",
    "raises": "1 / 0",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "is interrupted": "import os, time; os.kill(os.getpid(), 2); time.sleep(1)",
    "reads": "print(input()[::-1])",
    "is somewhere": "import os; print(os.getcwd(), sorted(os.environ.keys() - {'LC_CTYPE'}))",
    "ends in order": "import atexit, threading, time; atexit.register(print, 'last');"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_fork_is_a_program(code, tmp_path):
    more = {"cwd": tmp_path, "env": {"MINE": "1"}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = ["-c", code, "a", "b"]
    with subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, **more) as plain:
        expected = *plain.communicate("abc\n"), plain.returncode
    with forks.Program(words, stdin=subprocess.PIPE, **more) as fork:
        out, err = fork.communicate("abc\n")
    assert (out, fork.returncode) == (expected[0], expected[2])
    assert err.splitlines()[-1:] == expected[1].splitlines()[-1:]  # a traceback has frames of its own


def test_a_module_and_a_file_run_as_python_runs_them(tmp_path):
    (tmp_path / "there.py").write_text("import sys; print(__name__, sys.argv, 'other' in sys.path[0])")
    for words in (["-m", "there", "x"], ["there.py", "x"]):
        plain = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        fork = forks.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert fork.stdout == plain.stdout and fork.returncode == plain.returncode == 0, fork.stderr


def test_a_session_of_its_own_is_killed_as_a_whole():
    code = "import os, time; pid = os.fork(); print(pid, flush=True) if pid else None; time.sleep(60)"
    program = forks.Program(["-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert program.stdout is not None
    child = int(program.stdout.readline())
    assert os.getpgid(child) == program.pid
    os.killpg(program.pid, signal.SIGKILL)
    assert program.wait(10) == -signal.SIGKILL
    assert program.stdout.read() == "", "its child has ended too"


def test_a_file_that_is_given_stays_open(tmp_path):
    with open(tmp_path / "said", "w") as file:
        for word in ("one", "two"):
            forks.run(["-c", f"print({word!r})"], stdout=file, stderr=subprocess.STDOUT, check=True)
    assert (tmp_path / "said").read_text() == "one\ntwo\n"
