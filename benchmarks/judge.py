"""Five judges of known and unknown quality on one data set, measured by `python -m pbrl.judge`; and a control.

    python -m benchmarks.judge
    python -m benchmarks.judge 'vlm={store: sqlite:///vlm.sqlite, rater: name}' images=runs/images   # more beside

The episodes are 100 of data=mixed on Meta-World's drawer-open, of data_seed=1. Teachers answer the same 500 pairs of 32
steps about them into `runs/judge/answers.sqlite`, where another rater finds the questions: one is always right, one
flips 30 % of its answers, one is right but that it says "the first" in 20 points more of the cases than it should
(shown in random order). A **simulated** judge, no vision-language model, answers as many pairs through all that a model
would: contact sheets of clips, requests in both orders, probabilities. It looks up a clip's mean true reward, errs in
10 % of the pairs and prefers the first by 20 points. The ensemble learnt from 500 answers about other episodes, those
of data_seed=0, in `runs/judge/ensemble`. `clock` gives each frame the number of steps before it, and knows nothing
else. Writes `benchmarks/results/judge.json` and `docs/judge.png`.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks import simulated_judge
from benchmarks.report import RESULTS
from pbrl.configs import compose_config
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.kinds import ANSWER, TIE
from pbrl.feedback.questions import Value, identity
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.judge.command import judge, read_material
from pbrl.label import by_model
from pbrl.label.command import CommandLine
from pbrl.run.build import build
from pbrl.run.train import train
from pbrl.settings import RunSettings

DATA = ["env=metaworld/drawer-open", "data=mixed"]
ASK = ["query.kind=pair", "query.count=500", "query.length=32"]
JUDGED_EPISODES, LEARNT_EPISODES, BIAS = 100, 200, 0.2
PLACE = Path("runs/judge")


def answer(store: Store, table: Table, *flags: str) -> str:
    """Has a scripted teacher answer; returns its name."""
    settings = RunSettings.parse(compose_config(*DATA, *ASK, *flags))
    teacher = build(settings.feedback)
    teacher.start(Context(store, table, settings.query, data_dir=settings.data_dir))
    Asking(table=table, query=settings.query, source=teacher, store=store).ask(0, None)
    return teacher.rater


def answer_with_bias(store: Store, right: str) -> str:
    """Answers as the teacher `right` did, but that the clip shown first is chosen in BIAS more of the cases."""
    rng, answers = np.random.default_rng(0), store.answers(rater=right)
    store.add_rater("biased", "script", {"bias": BIAS})
    found = []
    for own in answers:
        assert own.value is not None and own.value.label is not None
        order = [0, 1] if rng.random() < 0.5 else [1, 0]
        is_turned = own.value.outcome == ANSWER and own.value.label != order[0] and rng.random() < 2 * BIAS
        label = float(order[0]) if is_turned else own.value.label
        value = Value(TIE if label == 0.5 else ANSWER, label)
        found.append(Answer(identity("biased", own.question), own.question, "biased", value, shown={"order": order}))
    store.append(found)
    return "biased"


def answer_as_model(data: list[str]) -> dict[str, str]:
    """Has a simulated judge answer by way of a model's interface; returns where its answers are."""
    store = f"sqlite:///{PLACE / 'model.sqlite'}"
    key = PLACE / "key.jsonl"
    server = simulated_judge.start(key, error=0.1, first=BIAS)
    try:
        config = compose_config(
            *data, *ASK, "vlm.judge=pair_logprob", "vlm.view=sheet", "vlm.frames=4", "vlm.size=84",
            f"vlm.cache={PLACE / 'cache'}", f"vlm.answer_key={key}", f"vlm.base_url={server.base_url}",
            f"store='{store}'", name="label_vlm",
        )  # fmt: skip
        by_model.label(config, CommandLine(tuple(data), "metaworld/drawer-open", "mixed"))
    finally:
        server.stop()
    (rater,) = {own.rater for own in Store(store).answers()}
    return {"store": store, "rater": rater}


def train_ensemble() -> Path:
    """The reward model of a run on other episodes, whose policy does not matter."""
    folder = PLACE / "ensemble"
    flags = ["algo=iql", "reward=ensemble", "feedback=perfect", "steps=1", "log_every=1", "eval_every=1",
             "checkpoint_every=1", "eval_episodes=1", "final_episodes=1", "compare=false", "video=false",
             f"data.episodes={LEARNT_EPISODES}", "query.held_out=0", f"run={folder}"]  # fmt: skip
    train(compose_config(*DATA, *ASK, *flags))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="name=place", help="more judges, as `sources={…}` has them")
    more = OverridesParser.create().parse_overrides([f"+{own}" for own in parser.parse_args().sources])
    data = [*DATA, f"data.episodes={JUDGED_EPISODES}", "data_seed=1"]
    config = compose_config(*data, "query.length=32", name="judge")
    material = read_material(config)
    table = Table(material.episodes)
    ensemble = train_ensemble()
    store = Store(f"sqlite:///{PLACE / 'answers.sqlite'}")
    perfect = answer(store, table, "feedback=perfect")
    wrong = answer(store, table, "feedback=mistake", "feedback.mistake=0.3")
    names = {"perfect": perfect, "mistakes 30 %": wrong, "first +20 points": answer_with_bias(store, perfect)}
    np.savez(PLACE / "clock.npz", value=np.concatenate([np.arange(len(e.obs)) for e in material.episodes]))
    sources: dict[str, Any] = {name: {"store": store.url, "rater": rater} for name, rater in names.items()}
    sources |= {"simulated model": answer_as_model(data)}
    sources |= {"ensemble": str(ensemble), "clock": str(PLACE / "clock.npz")}
    sources |= {own.key_or_group: own.value() for own in more}
    judge({**config, "sources": sources, "folder": str(PLACE / "report")})
    shutil.copy(PLACE / "report" / "judge.json", RESULTS / "judge.json")
    shutil.copy(PLACE / "report" / "judge.png", Path("docs/judge.png"))


if __name__ == "__main__":
    main()
