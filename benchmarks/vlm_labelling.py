"""The studies of vlm_labels.py: answers of a simulated judge through the real client, judges, pictures and store."""

import inspect
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import simulated_judge
from benchmarks.report import RESULTS
from pbrl.configs import compose_config
from pbrl.data import collect, rendering
from pbrl.data.table import Table
from pbrl.feedback.kinds import SKIP, TIE
from pbrl.feedback.store.store import Store
from pbrl.files import to_json
from pbrl.label import by_model
from pbrl.label.command import CommandLine
from pbrl.vlm import labeller, pictures
from pbrl.vlm.client import Client
from pbrl.vlm.transcript import Transcript

FOLDER = Path("runs/benchmark/vlm-labels")
COUNT, ERROR, FIRST = 1000, 0.1, 0.2
FLAGS = ["env=metaworld/drawer-open", "env.see_through=true", "env.camera=closeup", "env.horizon=150", "data=mixed",
         "data.episodes=150", "workers=0", "query.kind=pair", "query.length=1", f"query.count={COUNT}",
         "vlm.view=frame", "vlm.size=112", f"vlm.answer_key={FOLDER}/key.jsonl"]  # fmt: skip
TRUE_REWARD_GAP = 0.05  # frames that are closer are left out: which is better hangs on nothing one sees


def label(name: str, base_url: str, *flags: str) -> dict[str, Any]:
    """Labels into a store of its own; returns the config."""
    store = FOLDER / f"{name}.sqlite"
    for path in FOLDER.glob(f"{name}.sqlite*"):
        path.unlink()
    config = compose_config(*FLAGS, *flags, f"vlm.base_url={base_url}", f"store='sqlite:///{store}'", name="label_vlm")
    by_model.label(config, CommandLine(tuple(FLAGS), "metaworld/drawer-open", "mixed"))
    return config


def load_table(config: dict[str, Any]) -> Table:
    """The data set of a config."""
    source = {"folder": Path(config["data_dir"]), "seed": config["data_seed"], "workers": 0}
    return Table(collect.load_dataset(config["env"], config["data"], **source)[0])


# Preference for the first


def measure_bias(judge: str, first: float, swap: bool) -> dict[str, Any]:
    """A line of the results: how many answers are right, ties, and how often the first is preferred."""
    server = simulated_judge.start(FOLDER / "key.jsonl", error=ERROR, first=first)
    try:
        cache, name = f"vlm.cache={FOLDER}/cache", f"{judge}-{first}-{swap}"
        config = label(name, server.base_url, f"vlm.judge={judge}", f"vlm.swap={str(swap).lower()}", cache)
        counts = server.counts()
    finally:
        server.stop()
    table, store = load_table(config), Store(config["store"])
    answers = store.answers()
    questions, kept = store.questions([answer.question for answer in answers]), []
    for answer in answers:
        rows = [table.row(clip) for clip in questions[answer.question].clips]
        gap = float(table.reward[rows[1]] - table.reward[rows[0]])
        if answer.value is not None and abs(gap) > TRUE_REWARD_GAP:
            kept.append((gap > 0, answer.value.outcome, answer.value.label))
    decided = [(truth, label) for truth, outcome, label in kept if outcome not in (SKIP, TIE)]
    right = [(label > 0.5) == truth for truth, label in decided]
    return {"judge": judge, "answers_by": "simulated judge", "error": ERROR, "first": first, "swap": swap,
            "questions": len(kept), "decided": len(decided), "accuracy": float(np.mean(right)),
            "accuracy_ties_half": (sum(right) + 0.5 * (len(kept) - len(decided))) / len(kept),
            "ties": sum(outcome == TIE for _, outcome, _ in kept) / len(kept),
            "first_preferred": float(np.mean([label < 0.5 for _, label in decided])), "requests": counts["requests"],
            }  # fmt: skip


def debias() -> None:
    """Measures all of them."""
    cases = [(judge, first, swap) for judge in ("pair", "pair_logprob") for first in (0.0, FIRST)
             for swap in (False, True)]  # fmt: skip
    lines = [measure_bias(*case) for case in cases]
    (RESULTS / "vlm_debias.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    print("\n| judge | simulated: points for the first | orders | questions | right, of decided | ties | "
          "right, ties as a half | first preferred |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for k in lines:
        error = 100 * np.sqrt(k["accuracy"] * (1 - k["accuracy"]) / k["decided"])
        print(f"| {k['judge']} | {100 * k['first']:.0f} | {'both' if k['swap'] else 'one'} | {k['questions']} | "
              f"{100 * k['accuracy']:.1f} ± {error:.1f} % | {100 * k['ties']:.1f} % | "
              f"{100 * k['accuracy_ties_half']:.1f} % | {100 * k['first_preferred']:.1f} % |")  # fmt: skip


# Throughput


@contextmanager
def timed(
    owner: Any, name: str, into: dict[str, float], clock: Callable[[], float] = time.perf_counter
) -> Iterator[None]:
    """Adds up the seconds that calls of a function or coroutine take while this block runs."""
    function: Callable[..., Any] = getattr(owner, name)

    def count(began: float) -> None:
        into[name] = into.get(name, 0.0) + clock() - began

    @wraps(function)
    async def wait(*args: Any, **named: Any) -> Any:
        began = clock()
        try:
            return await function(*args, **named)
        finally:
            count(began)

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        began = clock()
        try:
            return function(*args, **named)
        finally:
            count(began)

    setattr(owner, name, wait if inspect.iscoroutinefunction(function) else call)
    try:
        yield
    finally:
        setattr(owner, name, function)


def measure_rate(judge: str, what: str, workers: int, server: simulated_judge.Running) -> dict[str, Any]:
    """A line of the results. `what`: first (nothing is kept), drawn (pictures are kept), kept (replies are as well).

    Seconds are of one answer: what the parts of the labeller took, added up over what runs side by side. `cpu_s` is of
    the labeller's own process, and `drawing_cpu_s` of those that draw, from their beginning.
    """
    cache = FOLDER / f"throughput-{judge}"
    if what == "first":
        shutil.rmtree(cache, ignore_errors=True)
    elif what == "drawn":
        (cache / "transcript.jsonl").unlink()
    spent: dict[str, float] = {}
    parts = [(Client, "_send"), (Transcript, "add"), (Store, "append"), (labeller, "lease"),
             (pictures.Pictures, "_view"), (by_model, "answer")]  # fmt: skip
    cpu, drawing, load = time.process_time(), seconds_of_ended_processes(), os.getloadavg()[0]
    with ExitStack() as stack:
        for owner, name in parts:
            stack.enter_context(timed(owner, name, spent))
        flags = [f"vlm.judge={judge}", f"vlm.cache={cache}", f"vlm.workers={workers}", "vlm.concurrency=16"]
        label(f"throughput-{judge}", server.base_url, *flags)
    cpu, drawing = time.process_time() - cpu, seconds_of_ended_processes() - drawing
    wall = spent.pop("answer")
    return {"judge": judge, "answers_by": "simulated judge", "kept": what, "workers": workers, "answers": COUNT,
            "latency_s": LATENCY_S, "concurrency": 16, "answers_per_s": COUNT / wall, "wall_s": wall, "cpu_s": cpu,
            "drawing_cpu_s": drawing, "load": load,
            "seconds_per_answer": {name: value / COUNT for name, value in spent.items()}}  # fmt: skip


def seconds_of_ended_processes() -> float:
    """CPU-seconds of all processes that this one began and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_drawing(count: int = 100) -> dict[str, Any]:
    """CPU-seconds that a picture of these takes, in one process: new is the first of an episode, known is any later.

    `opengl_s` is what OpenGL takes of it, which is the least that a picture can take.
    """
    config = compose_config(*FLAGS, name="label_vlm")
    rendering._source.update(env=config["env"], data=config["data"], folder=Path(config["data_dir"]),
                             seed=config["data_seed"], workers=0)  # fmt: skip
    table = load_table(config)
    sight = pictures.Sight("frame", config["vlm"]["size"], 1, None)
    of_each = table.rows.reshape(-1, config["env"]["horizon"])[:count].tolist()  # rows of episodes
    path, found = FOLDER / "views" / "one.json", {}
    pictures.draw(table.rows.tolist()[-1], 1, sight, path)  # makes the environment
    from mujoco.renderer import _render as opengl  # type: ignore  # not above: OpenGL is chosen before MuJoCo

    parts = [(pictures, "draw"), (pictures, "encode"), (pictures, "_keep"), (opengl, "mjr_render"),
             (opengl, "mjr_readPixels")]  # fmt: skip
    for what, steps in (("new", [60]), ("known", [20, 120])):
        spent: dict[str, float] = {}
        with ExitStack() as stack:
            for owner, name in parts:
                stack.enter_context(timed(owner, name, spent, time.process_time))
            for rows in of_each:
                for step in steps:
                    pictures.draw(rows[step], 1, sight, path)
        drawn = len(of_each) * len(steps)
        draw, encode, keep, *rendering_s = (spent[name] / drawn for _, name in parts)
        found[what] = {"draw_s": draw, "encode_s": encode, "keep_s": keep, "opengl_s": sum(rendering_s)}
    return {"picture": f"{sight.size} pixels", **found, "load": os.getloadavg()[0]}


def drawing() -> None:
    """Measures what a picture takes."""
    found = measure_drawing()
    (RESULTS / "vlm_drawing.jsonl").write_text(to_json(found) + "\n")
    print("| CPU-ms a picture | in all | OpenGL | JPEG | to the disk |\n|---|---|---|---|---|")
    for what in ("new", "known"):
        each = [f"{1000 * found[what][name]:.1f}" for name in ("draw_s", "opengl_s", "encode_s", "keep_s")]
        print(f"| {what} episode | " + " | ".join(each) + " |")


LATENCY_S = 0.02


def throughput() -> None:
    """Measures both judges of pairs, with nothing kept, pictures kept, and all kept."""
    lines: list[dict[str, Any]] = []
    server = simulated_judge.start(FOLDER / "key.jsonl", latency_s=LATENCY_S)
    try:
        for judge in ("pair_logprob", "pair"):
            lines += [measure_rate(judge, what, 2, server) for what in ("first", "drawn", "kept")]
    finally:
        server.stop()
    (RESULTS / "vlm_throughput.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    names = list(lines[0]["seconds_per_answer"])
    print("| judge | kept before | answers/s | " + " | ".join(f"{name}, ms" for name in names) +
          " | own CPU, ms | drawing CPU, ms |")  # fmt: skip
    print("|---" * (len(names) + 5) + "|")
    for k in lines:
        each = [f"{1000 * k['seconds_per_answer'].get(name, 0):.1f}" for name in names]
        print(f"| {k['judge']} | {k['kept']} | {k['answers_per_s']:.0f} | " + " | ".join(each) +
              f" | {1000 * k['cpu_s'] / COUNT:.1f} | {1000 * k['drawing_cpu_s'] / COUNT:.1f} |")  # fmt: skip
