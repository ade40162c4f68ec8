"""What it costs the page's server to hand out the next questions, with many of them open and many raters asking.

    python -m benchmarks.next_questions                              # this checkout alone
    python -m benchmarks.next_questions --before ../an-old-checkout  # and an earlier one, in turns, in one run

Raters ask at once for five questions each, over connections of their own, then answer them; this is repeated. Time and
the server's CPU are those of asking alone. Each server runs the code of its own checkout, over loopback, on a SQLite
file with fsync. Adds a line to `benchmarks/results/labelling.jsonl` with the load of the machine.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.report import RESULTS

HERE = Path(__file__).parents[1]
ASK = "import sys; from benchmarks.labelling import Store, ask; ask(Store(sys.argv[1]), int(sys.argv[2]))"


class Served:
    """A server of a checkout's code on a store with so many open questions, and raters connected to it."""

    def __init__(self, checkout: Path, folder: str, questions: int, raters: int):
        self.url = f"sqlite:///{folder}/labels.sqlite"
        options: dict[str, Any] = {"cwd": checkout, "env": {**os.environ, "PYTHONPATH": str(checkout)}}
        subprocess.run([sys.executable, "-c", ASK, self.url, str(questions)], check=True, **options)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.labelling", "serve", "--url", self.url, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
        self.raters = [self._connect(i) for i in range(raters)]
        self.pool = ThreadPoolExecutor(raters)
        self.took: list[float] = []
        self.cpu = self.idle_since = 0.0

    def _connect(self, i: int) -> tuple[http.client.HTTPConnection, str]:
        """A rater's connection and cookie."""
        for _ in range(600):
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port)
                connection.request("GET", f"/?token=token-{i % 20}-{'x' * 20}")
                answer = connection.getresponse()
                answer.read()
                return connection, answer.headers["Set-Cookie"].split(";")[0]
            time.sleep(0.1)
        raise RuntimeError("the server does not answer")

    def post(self, i: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server answers a rater."""
        connection, cookie = self.raters[i]
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "Cookie": cookie})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, (answer.status, text)
        return json.loads(text)

    def ask(self, i: int, n: int = 5) -> tuple[float, list[str]]:
        """How long n questions took, and which they are."""
        began = time.perf_counter()
        got = self.post(i, "/api/next", {"n": n})["questions"]
        return time.perf_counter() - began, [question["question"] for question in got]

    def answer(self, i: int, questions: list[str]) -> None:
        """Answers them, as a page of any version would."""
        for question in questions:
            body = {"uid": uuid4().hex, "question": question, "kind": "answer", "said": {"choice": "first"}}
            self.post(i, "/api/tell", body)

    def turn(self, n: int = 5) -> None:
        """Each rater asks, and then answers."""
        if time.perf_counter() > self.idle_since + 2:  # servers end what is idle for 5 s
            for connection, _ in self.raters:
                connection.close()
                connection.connect()
        before, indices = self.cpu_s(), range(len(self.raters))
        found = list(self.pool.map(lambda i: self.ask(i, n), indices))
        self.cpu += self.cpu_s() - before
        self.took += [took for took, _ in found]
        list(self.pool.map(self.answer, indices, [questions for _, questions in found]))
        self.idle_since = time.perf_counter()

    def cpu_s(self) -> float:
        """What the server's threads have used so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def result(self) -> dict[str, float]:
        """Milliseconds until the questions are there, and of the server's CPU for each request."""
        low, high = np.percentile(self.took, [50, 95])
        return {
            "requests": len(self.took),
            "p50_ms": round(1e3 * low, 1),
            "p95_ms": round(1e3 * high, 1),
            "cpu_ms": round(1e3 * self.cpu / len(self.took), 2),
        }


def measure(checkouts: dict[str, Path], *, questions: int, raters: int, answered: int, turns: int) -> dict[str, Any]:
    """The result of each checkout, all of them taking turns; at the end so many questions are still open."""
    with contextlib.ExitStack() as stack:
        served = {}
        for name, checkout in checkouts.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            served[name] = Served(checkout, folder, questions + raters * (answered + 30 + 5 * turns), raters)
            stack.callback(served[name].process.kill)
        for one in served.values():
            for _ in range(-(-answered // 30)):
                one.turn(30)
            one.took, one.cpu = [], 0.0
        for _ in range(turns):
            for one in served.values():
                one.turn()
        return {name: one.result() for name, one in served.items()}


def main() -> None:
    """Measures, prints and keeps a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--questions", type=int, default=20_000, help="that are still open at the end")
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--answered", type=int, default=300, help="questions that each rater has answered before")
    parser.add_argument("--turns", type=int, default=20)
    args = parser.parse_args()
    checkouts = {"now": HERE} | ({"before": args.before.resolve()} if args.before else {})
    about = {name: getattr(args, name) for name in ("questions", "raters", "answered", "turns")}
    found = measure(checkouts, **about)
    line = {"what": "next_questions", **about, **found, "load": [round(x, 1) for x in os.getloadavg()]}
    print(json.dumps(line))
    with open(RESULTS / "labelling.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
