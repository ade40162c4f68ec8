"""How a labeller's answers suffer from a model that prefers the first picture, and how many it gives in a second.

    python -m benchmarks.vlm_labels debias        # one order or both, a preference for the first of 0 or 20 points
    python -m benchmarks.vlm_labels throughput    # against a server that takes 20 ms, with what takes the time

Answers are those of a **simulated judge** (simulated_judge.py), through the real client, judges, pictures, transcript
and store (`python -m pbrl.label.vlm`), about single frames of data=mixed on Meta-World's drawer-open. An answer is
right where it prefers the frame of the higher true reward. Writes `benchmarks/results/vlm_debias.jsonl` and
`vlm_throughput.jsonl`, and prints a table in Markdown.
"""

import argparse
import inspect
import json
import os
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
def timed(owner: Any, name: str, into: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds that calls of a function or coroutine take while this block runs."""
    function: Callable[..., Any] = getattr(owner, name)

    def count(began: float) -> None:
        into[name] = into.get(name, 0.0) + time.perf_counter() - began

    @wraps(function)
    async def wait(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return await function(*args, **named)
        finally:
            count(began)

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
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

    Seconds are of one answer: what the parts of the labeller took, added up over what runs side by side.
    """
    cache = FOLDER / f"throughput-{judge}"
    if what == "first":
        shutil.rmtree(cache, ignore_errors=True)
    elif what == "drawn":
        (cache / "transcript.jsonl").unlink()
    spent: dict[str, float] = {}
    parts = [(Client, "_send"), (Transcript, "add"), (Store, "append"), (labeller, "lease"),
             (pictures.Pictures, "_view"), (by_model, "answer")]  # fmt: skip
    cpu, load = time.process_time(), os.getloadavg()[0]
    with ExitStack() as stack:
        for owner, name in parts:
            stack.enter_context(timed(owner, name, spent))
        flags = [f"vlm.judge={judge}", f"vlm.cache={cache}", f"vlm.workers={workers}", "vlm.concurrency=16"]
        label(f"throughput-{judge}", server.base_url, *flags)
    cpu = time.process_time() - cpu
    wall = spent.pop("answer")
    return {"judge": judge, "answers_by": "simulated judge", "kept": what, "workers": workers, "answers": COUNT,
            "latency_s": LATENCY_S, "concurrency": 16, "answers_per_s": COUNT / wall, "wall_s": wall, "cpu_s": cpu,
            "load": load, "seconds_per_answer": {name: value / COUNT for name, value in spent.items()}}  # fmt: skip


def measure_drawing(count: int = 100) -> dict[str, Any]:
    """Seconds to draw and to encode a picture of these, one after the other in one process."""
    config = compose_config(*FLAGS, name="label_vlm")
    rendering._source.update(env=config["env"], data=config["data"], folder=Path(config["data_dir"]),
                             seed=config["data_seed"], workers=0)  # fmt: skip
    table = load_table(config)
    sight = pictures.Sight("frame", config["vlm"]["size"], 1, None)
    rows = np.random.default_rng(0).choice(table.rows.cpu().numpy(), count + 1).tolist()
    path, spent = FOLDER / "views" / "one.json", {}
    pictures.draw(rows[0], 1, sight, path)  # makes the environment
    with timed(pictures, "draw", spent), timed(pictures, "encode", spent), timed(pictures, "_keep", spent):
        for row in rows[1:]:
            pictures.draw(row, 1, sight, path)
    encode, keep, draw = (spent[name] / count for name in ("encode", "_keep", "draw"))
    return {"picture": f"{sight.size} pixels", "render_s": draw - encode - keep, "encode_s": encode, "keep_s": keep}


LATENCY_S = 0.02


def throughput() -> None:
    """Measures both judges of pairs, with nothing kept, pictures kept, and all kept."""
    lines: list[dict[str, Any]] = [measure_drawing()]
    server = simulated_judge.start(FOLDER / "key.jsonl", latency_s=LATENCY_S)
    try:
        for judge in ("pair_logprob", "pair"):
            lines += [measure_rate(judge, what, 2, server) for what in ("first", "drawn", "kept")]
    finally:
        server.stop()
    (RESULTS / "vlm_throughput.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    print(json.dumps(lines[0]))
    names = list(lines[1]["seconds_per_answer"])
    print("| judge | kept before | answers/s | " + " | ".join(f"{name}, ms" for name in names) + " | own CPU, ms |")
    print("|---" * (len(names) + 4) + "|")
    for k in lines[1:]:
        each = [f"{1000 * k['seconds_per_answer'].get(name, 0):.1f}" for name in names]
        print(f"| {k['judge']} | {k['kept']} | {k['answers_per_s']:.0f} | " + " | ".join(each) +
              f" | {1000 * k['cpu_s'] / COUNT:.1f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["debias", "throughput"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    {"debias": debias, "throughput": throughput}[parser.parse_args().study]()


if __name__ == "__main__":
    main()
