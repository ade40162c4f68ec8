"""Fifty triplets answered at the labelling page by a scripted annotator in a browser, and the same answered directly.

    python -m benchmarks.page_triplets --seeds 0 1 2

The annotator looks at the three clips on the screen and presses the key of the one that is more like the first: whose
true return is nearer. What the store then holds is compared with the answers of the scripted teacher to the same
questions, and so are the rewards (reward=rapl) that are learnt from both, on episodes that no question was about.
Episodes are of magical/grouping, features of a random ResNet-18; a seed is of the questions and the training. A line a
seed goes to `benchmarks/results/page_triplets.jsonl`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.annotator import open_page
from benchmarks.report import RESULTS
from pbrl import api
from pbrl.configs import compose_config
from pbrl.data.table import Table
from pbrl.feedback.labels import Labels, Selection
from pbrl.feedback.read import read
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.store.store import Store
from pbrl.judge.command import read_material
from pbrl.run.build import build
from pbrl.settings import Query, RunSettings
from pbrl.training.held_out import rank_correlation

FILE, ANSWERS = RESULTS / "page_triplets.jsonl", 50
LEARNT, UNSEEN, HORIZON = 40, 30, 64  # episodes that questions are about, and others; steps of each
DATA = ["env=magical/grouping", f"env.horizon={HORIZON}", "data=styles", "data.behaviour.noise=0.3",
        "data.behaviour.styles=[{together:1},{together:0}]"]  # fmt: skip
ENCODER = {"encoder": "resnet18", "weights": "none", "image_size": 64}  # random: which features they are is no matter
KEYS = {0.0: "ArrowLeft", 0.5: "ArrowDown", 1.0: "ArrowRight"}
WATCH_MS, PATIENCE = 150, 600  # before a key; looks at the page, 50 ms apart, until something must be wrong


def answer_at(page: Any, store: Store, table: Table, teacher: Teacher, length: int, count: int) -> list[str]:
    """Has an annotator at the open page answer `count` triplets by what it shows, as the teacher; returns their ids."""
    answered: list[str] = []
    for _ in range(PATIENCE + count * 100):
        question = page.evaluate("document.body.dataset.question ?? null")
        if question is None or question in answered:
            page.wait_for_timeout(50)
            continue
        page.wait_for_timeout(WATCH_MS)
        sources = page.eval_on_selector_all("#clips video", "videos => videos.map(video => video.src)")
        clips = [source.rsplit("/", 1)[1].removesuffix(".mp4") for source in sources]
        known = store.clips(clips)
        starts = torch.tensor([[table.row(known[clip]) for clip in clips]])
        (label,), _ = teacher.label(table, starts, length, np.zeros((1, 2)))
        page.keyboard.press(KEYS[float(label)])
        answered.append(question)
        if len(answered) == count:
            return answered
    raise AssertionError(f"the page has shown {len(answered)} triplets of {count}")


def answer_directly(store: Store, table: Table, teacher: Teacher, query: Query, questions: list[str]) -> None:
    """Has the teacher itself answer the same questions, into the same store."""
    teacher.start(Context(store, table, query, data_dir=Path()))
    teacher.answer(questions)


def labels_by(rater: str, store: Store, table: Table, query: Query) -> Labels:
    """What a rater's answers say, in an order that does not depend on when they were given."""
    labels, _ = read(store, table, query, Selection(rater=rater))
    order = np.lexsort(labels.starts.T)
    return labels._replace(starts=labels.starts[order], value=labels.value[order])


@contextmanager
def serve(store: str, seed: int, data: Path, cache: Path) -> Iterator[str]:
    """The page's address, while it is served in a process of its own."""
    flags = [*DATA, f"data.episodes={LEARNT}", f"data_dir={data}", "workers=0", "query.kind=triplet",
             f"query.count={ANSWERS}", f"query.length={HORIZON}", f"query.seed={seed}", "size=128", "port=8900",
             f"store={store}", f"cache={cache}"]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "pbrl.label", *flags], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield next(line.split()[1] for line in process.stdout if line.startswith("answers "))
    finally:
        process.kill()
        process.wait()


def load(data: Path, episodes: int, seed: int) -> Table:
    """Episodes with their features."""
    flags = [*DATA, f"data.episodes={episodes}", f"data_seed={seed}", f"data_dir={data}", "workers=0"]
    material = read_material(compose_config(*flags, name="judge"))
    return material.table("cpu", material.env, {**compose_config("reward=rapl")["reward"], **ENCODER})


def measure(seed: int, data: Path) -> dict[str, Any]:
    """A line: how many answers are equal, how far the rewards lie apart, and how good each is."""
    table, unseen = load(data, LEARNT, 0), load(data, UNSEEN, 1)
    settings = RunSettings.parse(
        compose_config("query.kind=triplet", f"query.count={ANSWERS}", f"query.length={HORIZON}", "query.held_out=0")
    )
    teacher: Teacher = build(settings.feedback | compose_config("feedback=perfect")["feedback"])
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/answers.sqlite")
        with serve(store.url, seed, data, Path(folder) / "clips") as at, open_page(at) as page:
            questions = answer_at(page, store, table, teacher, HORIZON, ANSWERS)
            page.wait_for_timeout(1000)
        answer_directly(store, table, teacher, settings.query, questions)
        raters = {"page": "me", "directly": teacher.rater}
        labels = {how: labels_by(rater, store, table, settings.query) for how, rater in raters.items()}
    preferred = np.argsort(-table.returns)[:3].tolist()
    rewards = {
        how: api.train_reward(table, own, "rapl", seed=seed, preferred=preferred, **ENCODER)
        for how, own in labels.items()
    }
    scores = {how: model.label(unseen)[0, unseen.rows] for how, model in rewards.items()}
    return {
        "seed": seed,
        "answers": {how: own.size for how, own in labels.items()},
        "equal_answers": int((labels["page"].value == labels["directly"].value).sum()),
        "largest_difference_of_rewards": float((scores["page"] - scores["directly"]).abs().max()),
        "spearman": {how: round(correlate(own, unseen), 4) for how, own in scores.items()},
    }


def correlate(score: torch.Tensor, table: Table) -> float:
    """Spearman's of the predicted [M] and the true returns of episodes."""
    returns = score.reshape(len(table.steps), -1).sum(1)
    return rank_correlation(returns, torch.from_numpy(table.returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=Path("datasets"), help="where episodes and features are kept")
    args = parser.parse_args()
    for seed in args.seeds:
        line = measure(seed, args.data)
        print(json.dumps(line), flush=True)
        known = [json.loads(own) for own in FILE.read_text().splitlines()] if FILE.exists() else []
        lines = sorted([*(own for own in known if own["seed"] != seed), line], key=lambda own: own["seed"])
        FILE.write_text("".join(json.dumps(own) + "\n" for own in lines))


if __name__ == "__main__":
    main()
