"""Python programs in processes that begin at once: forks of one that has imported everything and trained nothing.

`python train.py` spends four seconds on imports; tests that start hundreds of programs would do little else. A program
here is a process of its own, with its own signals, pipes, folder and environment, and a child of the test's process.
What imports settle is settled already: use `subprocess` where other code, threads or a renderer are what is tested.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from typing import Any

IMPORTED = (  # what most programs import, none of which starts a thread or a renderer
    "dm_control.suite", "fastapi", "matplotlib.figure", "metaworld", "openai", "pbrl.judge", "pbrl.label.command",
    "pbrl.run.answers", "pbrl.run.train", "pbrl.vlm.labeller", "real.deploy", "sim.configs", "sim.tabletop",
    "torch._dynamo", "uvicorn",
)  # fmt: skip
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: processes whose parent has ended become this one's children


class Program(subprocess.Popen):
    """`python WORDS`, as `subprocess.Popen([sys.executable, *WORDS], …)` would run it."""

    def __init__(self, words: Sequence[object], **more: Any):
        super().__init__([str(word) for word in words], **more)

    def _execute_child(  # type: ignore[override]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
        start_new_session, *_,
    ):  # fmt: skip
        assert preexec_fn is None and not pass_fds and not shell, "a fork cannot have these"
        given = (p2cread, c2pwrite, errwrite)
        files = [i if file == -1 else file for i, file in enumerate(given)]
        env = dict(os.environ if env is None else env)
        order = {"words": args, "folder": str(cwd or os.getcwd()), "env": env, "alone": start_new_session}
        self.pid = _start(order, files)
        self._child_created = True
        for theirs, ours in ((p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread)):
            if ours != -1:  # a pipe; other files are the caller's
                os.close(theirs)
        if getattr(self, "_devnull", None) is not None:
            os.close(self._devnull)


def run(words: Sequence[object], *, timeout: float | None = 300, **more: Any) -> subprocess.CompletedProcess:
    """`subprocess.run([sys.executable, *WORDS], …)`; `capture_output` and `check` are known."""
    check = more.pop("check", False)
    if more.pop("capture_output", False):
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Program(words, **more) as program:
        try:
            out, err = program.communicate(timeout=timeout)
        except BaseException:
            program.kill()
            raise
    done = subprocess.CompletedProcess(list(words), program.returncode, out, err)
    if check:
        done.check_returncode()
    return done


_nursery: tuple[subprocess.Popen, socket.socket] | None = None


def _start(order: Mapping[str, object], files: Sequence[int]) -> int:
    """The id of a new process, whose parent is this one."""
    global _nursery
    if _nursery is None:
        ours, theirs = socket.socketpair()
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen([sys.executable, "-m", "tests.forks", str(theirs.fileno())], env=env,
                                  pass_fds=[theirs.fileno()], start_new_session=True)  # fmt: skip
        theirs.close()
        _nursery = server, ours
        atexit.register(_end)
    libc, (_, ours) = ctypes.CDLL(None), _nursery
    libc.prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        words = json.dumps(order).encode()
        socket.send_fds(ours, [len(words).to_bytes(8, "little")], files)
        ours.sendall(words)
        return int.from_bytes(_read(ours, 9)[:8], "little")
    finally:
        libc.prctl(SUBREAPER, 0, 0, 0, 0)


def _end() -> None:
    if _nursery is not None:
        _nursery[1].close()
        _nursery[0].wait()


def _read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise EOFError("the process that forks has ended")
        found += part
    return found


# In the process that forks


def serve(connection: socket.socket) -> None:
    """Starts a process for each order, until the tests end."""
    for name in IMPORTED:
        importlib.import_module(name)
    _warm()
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()  # else a garbage collection in a fork looks at all that was imported, and so copies its memory
    while True:
        head, files, _, _ = socket.recv_fds(connection, 8, 3)
        if not head:
            return
        order = json.loads(_read(connection, int.from_bytes(head, "little")))
        between = os.fork()
        if not between:
            program = os.fork()
            if not program:
                connection.close()
                try:
                    become(order, files)
                except BaseException:  # not what was asked for: that ends in `_leave`
                    traceback.print_exc()
                os._exit(1)
            connection.sendall(program.to_bytes(8, "little"))
            os._exit(0)
        os.waitpid(between, 0)
        connection.sendall(b"!")  # the program has its new parent
        for file in files:
            os.close(file)


def _warm() -> None:
    """What most programs would work out anew, and keep: Hydra's grammar, the choices in configs/."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from pbrl import configs
    from pbrl.run import choices

    with initialize_config_dir(str(configs.FOLDER), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", ["env=gymnasium", "env.id=x"]), resolve=True)
    choices.names(config)


def become(order: Mapping[str, Any], files: Sequence[int]) -> None:
    """Turns a fork into the program that was asked for, and ends with it."""
    if order["alone"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    for i, file in enumerate(files):
        os.dup2(file, i)
    os.closerange(3, 64)
    live = "PYTHONUNBUFFERED" in order["env"]
    sys.stdout.reconfigure(line_buffering=live or os.isatty(1))  # type: ignore[union-attr]
    sys.path[:] = [*filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    random.seed()
    _leave(_execute(order["words"]))


def _execute(words: list[str]) -> int:
    """Runs a program as `python` does; returns its status."""
    try:
        if words[0] == "-m":
            sys.path.insert(0, os.getcwd())
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *words[2:]]
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            main.__dict__["__builtins__"] = __builtins__
            exec(compile(words[1], "<string>", "exec"), vars(main))
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _leave(status: int) -> None:
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
