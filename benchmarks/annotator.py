"""A scripted annotator at the labelling page, in a real browser, while `train.py feedback=people` learns from it.

    python -m benchmarks.annotator                      # sweep-into, three seeds: at the page, and directly
    python -m benchmarks.annotator --only page --seeds 0
    python -m benchmarks.annotator --only keys          # no training: when the next pair comes, and if it is in step
    python -m benchmarks.annotator --only keys --far    # the same, as over a slow line

It looks at what a person looks at, the clips on the screen, and answers with an arrow key as a teacher of B-Pref would
(arXiv:2111.03026): a share of mistakes, ties where returns are close, "can't tell" where both are low. Then what the
store holds is compared with what was pressed, and the policy with one that learned from such answers directly. A line
a run goes to `benchmarks/results/annotator.jsonl`, with the machine's load.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import sim.configs
from benchmarks.report import RESULTS
from benchmarks.rewards import CONFIGS
from pbrl.data import collect
from pbrl.data.table import Table
from pbrl.feedback.questions import ANSWER, SKIP, TIE
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.store.store import Store
from pbrl.files import to_json
from pbrl.training import log
from tests.browser import CHROMIUM

DIALS = {"criterion": "return", "discount": 0.99, "beta": float("inf"), "gamma": 1.0, "mistake": 0.1, "skip": 0.1,
         "equal": 0.1, "reference": None}  # fmt: skip
DATA = ["env=metaworld/sweep-into", "data=offset"]
RUN = [
    *DATA, "algo=iql", "reward=ensemble", "reward.steps=1000", "query.kind=pair",
    "query.count=400", "query.rounds=2", "query.strategy=disagreement", "steps=8000", "eval_every=2000",
    "checkpoint_every=2000", "video=false",
]  # fmt: skip
KEYS = {0.0: "ArrowLeft", 1.0: "ArrowRight", 0.5: "ArrowDown"}
WATCH_MS = 200  # while training waits: from when a pair is there to the key
FAR = {"offline": False, "latency": 80, "downloadThroughput": 200_000, "uploadThroughput": 200_000}  # ms, bytes/s
PERSON_MS = 2500  # where only keys are timed: a quick person's pace, which leaves time to render
TIME_FRAMES = """() => {
  window.took = [];
  let pressed = null;
  addEventListener("keydown", () => { pressed = performance.now(); }, true);
  new MutationObserver(() => {
    const began = pressed;
    pressed = null;
    const videos = [...document.querySelectorAll("#clips video")];
    if (began === null || !videos.length) return;
    Promise.all(videos.map((video) => new Promise((shown) => video.requestVideoFrameCallback(shown))))
      .then(() => took.push(performance.now() - began));
  }).observe(document.getElementById("clips"), { childList: true });
}"""

APART = """() => new Promise((done) => {
  const [first, second] = document.querySelectorAll("#clips video"), apart = [];
  const end = performance.now() + 60000;
  const look = () => {
    apart.push(Math.abs(first.currentTime - second.currentTime));
    performance.now() < end ? requestAnimationFrame(look) : done(apart);
  };
  look();
})"""


class Annotator:
    """Answers about `table`; `pressed` says which key for which question, and whether it was a mistake."""

    def __init__(self, table: Table, length: int, seed: int):
        self.table, self.length = table, length
        self.teacher, self.honest = Teacher(**DIALS, seed=seed), Teacher(**{**DIALS, "mistake": 0.0}, seed=seed)
        self.pressed: dict[str, tuple[str, bool]] = {}

    def key(self, question: str, left: int, right: int) -> str:
        """For the clips that begin at these rows."""
        uniform = np.random.default_rng([self.teacher.seed, len(self.pressed)]).random((1, 2))
        about = self.table, torch.tensor([[left, right]]), self.length, uniform
        (label,), (outcome,) = self.teacher.label(*about)
        key = "ArrowUp" if outcome == SKIP else KEYS[float(label)]
        wrong = outcome not in (SKIP, TIE) and label != self.honest.label(*about)[0][0]
        self.pressed[question] = key, bool(wrong)
        return key

    def sit_down(
        self, at: str, store: Store, goes_on: Callable[[], bool], watch_ms: int, far: bool = False
    ) -> list[float]:
        """Answers what the page asks while it `goes_on`; returns ms from each key to the next pair's frames."""
        from playwright.sync_api import Error

        took: list[float] = []
        with open_page(at, far) as page:
            page.evaluate(TIME_FRAMES)
            while goes_on():
                question = page.evaluate("document.body.dataset.question ?? null")
                if question is None or question in self.pressed:
                    page.wait_for_timeout(20)
                    continue
                page.wait_for_timeout(watch_ms)
                try:
                    sources = page.eval_on_selector_all("#clips video", "videos => videos.map(video => video.src)")
                    took = page.evaluate("took")
                except Error:  # the page went with its run
                    break
                clips = [source.rsplit("/", 1)[1].removesuffix(".mp4") for source in sources]
                found = store.clips(clips)
                page.keyboard.press(self.key(question, *(self.table.row(found[clip]) for clip in clips)))
        return took


@contextmanager
def open_page(at: str, far: bool = False) -> Iterator[Any]:
    """The page in a browser, its help closed; `far`: over a line of 80 ms and 1.6 Mbit/s, both ways."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 850})
        if far:
            wire = page.context.new_cdp_session(page)
            wire.send("Network.enable")
            wire.send("Network.emulateNetworkConditions", FAR)
        page.goto(at)
        page.wait_for_selector("#help[open]")
        page.keyboard.press("Escape")
        yield page
        browser.close()


def run_with_page(seed: int, folder: Path) -> dict[str, Any]:
    """A run that asks, and the annotator; what the store holds beside what was pressed."""
    people = ["feedback=people", "feedback.minimum=150", "feedback.port=8700"]
    command = [sys.executable, "train.py", *RUN, *people, f"seed={seed}", f"run={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    at = next(line.split()[1] for line in process.stdout if line.startswith("answers "))
    store, annotator = (
        Store(f"sqlite:///{folder / 'answers.sqlite'}"),
        make_annotator(yaml.safe_load((folder / "config.yaml").read_text()), seed),
    )
    took = annotator.sit_down(at, store, lambda: process.poll() is None, WATCH_MS)
    assert process.wait() == 0
    return {**compare(annotator, store), **percentiles(took)}


def make_annotator(config: dict[str, Any], seed: int) -> Annotator:
    """An annotator who knows the data of a run with these settings."""
    source = {"folder": Path(config["data_dir"]), "seed": config["data_seed"], "workers": 0}
    episodes, _ = collect.load_dataset(config["env"], config["data"], **source)
    return Annotator(Table(episodes), config["query"]["length"], seed)


def percentiles(took: list[float]) -> dict[str, int]:
    return {f"next_p{p}_ms": round(float(np.percentile(took, p))) for p in (50, 95)}


def keys(far: bool) -> dict[str, Any]:
    """A page alone; a person thinks longer than a clip takes to render."""
    sim.configs.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", DATA), resolve=True)
    annotator = make_annotator(config, 0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/answers.sqlite")
        command = [sys.executable, "-m", "pbrl.label", *DATA, "query.count=120", "port=8800", f"store={store.url}",
                   f"cache={folder}/clips"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        at = next(line.split()[1] for line in process.stdout if line.startswith("answers "))
        took = annotator.sit_down(at, store, lambda: len(annotator.pressed) <= 60, PERSON_MS, far)
        with open_page(at, far) as page:
            page.wait_for_selector("body[data-question]")
            apart = page.evaluate(APART)
        process.kill()
        return {
            "answers": len(annotator.pressed), "watched_ms": PERSON_MS, **percentiles(took),
            "apart_p99_ms": round(1e3 * float(np.percentile(apart, 99))), "times_looked": len(apart),
        }  # fmt: skip


def compare(annotator: Annotator, store: Store) -> dict[str, Any]:
    """Shares, in per cent, as they were pressed and as they are in the store, by the true return."""
    stored = [answer for answer in store.answers() if answer.value is not None]
    questions = store.questions([answer.question for answer in stored])
    starts = [[annotator.table.row(clip) for clip in questions[answer.question].clips] for answer in stored]
    rows = annotator.table.segment_rows(torch.tensor(starts), annotator.length)
    gap = annotator.table.reward[rows].sum(-1).diff(dim=1)[:, 0].numpy()
    outcome = np.array([answer.value.outcome for answer in stored if answer.value])
    label = np.array([np.nan if a.value is None or a.value.label is None else a.value.label for a in stored])
    decisive = outcome == ANSWER
    keys = [annotator.pressed[answer.question][0] for answer in stored]
    wrong = [annotator.pressed[answer.question][1] for answer in stored]

    def share(those: Any, of: Any) -> float:
        return round(100 * float(np.sum(those)) / int(np.sum(of)), 2)

    everything = np.ones(len(keys))
    return {
        "answers": len(keys), "pressed_but_not_kept": len(annotator.pressed) - len(questions),
        "mistakes_pressed": share(wrong, decisive),
        "mistakes_found": share(((label > 0.5) != (gap > 0))[decisive], decisive),
        "equal_pressed": share([k == "ArrowDown" for k in keys], everything),
        "equal_found": share(outcome == TIE, everything),
        "cannot_tell_pressed": share([k == "ArrowUp" for k in keys], everything),
        "cannot_tell_found": share(outcome == SKIP, everything),
    }  # fmt: skip


def run_without_page(seed: int, folder: Path) -> dict[str, Any]:
    """The same run, with the same kind of answers and no page."""
    dials = [f"feedback.{name}={DIALS[name]}" for name in ("mistake", "skip", "equal")]
    command = [sys.executable, "train.py", *RUN, "feedback=perfect", *dials, f"seed={seed}", f"run={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=("page", "directly", "keys"))
    parser.add_argument("--far", action="store_true", help="of keys: a line of 80 ms and 1.6 Mbit/s")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark/annotator"))
    args = parser.parse_args()
    for how, go in (("page", run_with_page), ("directly", run_without_page)):
        for seed in args.seeds if args.only in (None, how) else []:
            folder = args.folder / f"{how}-{seed}"
            found = go(seed, folder)
            result = json.loads((folder / "result.json").read_text())
            append_result({
                "how": how, "seed": seed, **found, "bc_success": result["bc"]["last"]["success"],
                "success": [one["success"] for one in log.read(folder, "evaluate")],  # at each quarter, the last in 50
                "git": json.loads((folder / "versions.json").read_text())["git"],
            })  # fmt: skip
    if args.only == "keys":
        append_result({"how": "keys", "far": args.far, **keys(args.far)})


def append_result(line: dict[str, Any]) -> None:
    line["load"] = [round(x, 1) for x in os.getloadavg()]
    print(to_json(line))
    with open(RESULTS / "annotator.jsonl", "a") as file:
        file.write(to_json(line) + "\n")


if __name__ == "__main__":
    main()
