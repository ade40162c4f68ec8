"""The command: reads the data set and the sources, measures each, prints a table, and writes the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pbrl.data import collect
from pbrl.data.rollout import worker_count
from pbrl.files import write_json
from pbrl.judge import charts, report
from pbrl.judge.evidence import Clips, Source, Truth, draw_pairs
from pbrl.judge.from_file import load_file
from pbrl.judge.from_run import describe_data, load_run, own_data
from pbrl.judge.from_store import load_answers
from pbrl.judge.judging import Verdict, measure
from pbrl.judge.material import Material
from pbrl.judge.page import write_pages
from pbrl.judge.settings import Named, check, find_changes, find_sources
from pbrl.run.folder import make_folder
from pbrl.training.engine import pick_device
from pbrl.types import Clip, UserError

DEFAULT_LENGTH = 64


class Judged(NamedTuple):
    """What the command found: `result` is what `judge.json` holds."""

    result: dict[str, Any]
    material: Material
    sources: dict[str, Source]
    found: dict[str, Verdict]

    @property
    def truth(self) -> Truth:
        """What is known of the data set."""
        return self.material.truth


def judge(config: dict[str, Any]) -> dict[str, Any]:
    """Measures what a config names, prints a table and writes the report, which is returned. Raises UserError."""
    judged = measure_sources(config)
    print("\n" + report.lines(judged.result))
    folder = make_folder(Path(config["folder"]))
    write_json(folder / "judge.json", judged.result)
    charts.save(charts.draw(judged.truth, judged.sources, judged.found), folder / "judge.png")
    written = write_pages(judged.material, judged.sources, judged.result, config["shown"], folder)
    print("\nwritten " + " · ".join(map(str, [folder / "judge.json", folder / "judge.png", *written])))
    return judged.result


def measure_sources(config: dict[str, Any]) -> Judged:
    """Measures what a config names. Raises UserError."""
    check(config)
    named = find_sources(config)
    config = with_data(config, named)
    material = read_material(config)
    truth = material.truth  # refused before models are loaded
    sources = {name: load_source(name, own, config, material) for name, own in named.items()}
    check_pictures(config, sources)
    pairs = choose_pairs(config["query"], truth, sources)
    found = {}
    for name, source in sources.items():
        print(f"measuring {name}", flush=True)
        found[name] = measure(truth, source, pairs=pairs, resamples=config["resamples"], seed=config["seed"])
    described = describe(config, material, pairs) | {"warnings": warn_of_training(sources, pairs, material)}
    return Judged(report.to_dict(described, sources, found), material, sources, found)


def with_data(config: dict[str, Any], named: Mapping[str, Named]) -> dict[str, Any]:
    """The config with a data set: its own, or else that of the first run among the sources. Raises UserError."""
    has = [bool(config.get(part)) for part in ("env", "data")]
    if all(has) or (has[1] and config["data"].get("path")):
        return {"env": {}, **config}
    run = next((own.place for own in named.values() if own.form == "run"), None)
    if any(has) or run is None:
        raise UserError(
            "which data set? Add env=… data=… (or data=file data.path=…); only a run among the sources brings its own"
        )
    return {**config, **own_data(Path(run))}


def read_material(config: dict[str, Any]) -> Material:
    """The data set, read or collected. Raises UserError."""
    workers = worker_count(config["workers"])
    place = {"folder": Path(config["data_dir"]), "seed": config["data_seed"], "workers": workers}
    episodes, content_hash = collect.load_dataset(config["env"], config["data"], **place)
    return Material(episodes, content_hash, config["env"], place["folder"], workers, config["demonstrations"])


def load_source(name: str, own: Named, config: Mapping[str, Any], material: Material) -> Source:
    """What a source says about the data set. Raises UserError."""
    if own.form == "run":
        return load_run(Path(own.place), material, pick_device(config["device"]), find_changes(config))
    if own.form == "file":
        return load_file(Path(own.place).expanduser(), material)
    return load_answers(own.place, own.rater, material, kind=config["kind"], name=name)


def check_pictures(config: Mapping[str, Any], sources: Mapping[str, Source]) -> None:
    """Raises UserError where pictures shall be changed, and no source reads any."""
    wanted = [f"changes=[{','.join(config['changes'])}]"] * bool(config["changes"])
    wanted += [f"shown.occlusion={config['shown']['occlusion']}"] * bool(config["shown"]["occlusion"])
    if wanted and all(source.visual is None for source in sources.values()):
        raise UserError(
            f"{' and '.join(wanted)}: none of the sources is a run's reward of pictures (reward=rapl, image)"
        )


def choose_pairs(query: Mapping[str, Any], truth: Truth, sources: Mapping[str, Source]) -> Clips:
    """The pairs of clips that rewards and values are judged on. Raises UserError."""
    asked = [source.answers.clips for source in sources.values() if source.answers is not None]
    if query["pairs"] == "asked":
        if not asked:
            raise UserError("query.pairs=asked takes a rater of pairs among the sources: query.pairs=drawn")
        return union(asked)
    rated = [source.ratings.clips for source in sources.values() if source.ratings is not None]
    lengths = np.concatenate([clips.length for clips in [*asked, *rated]] or [np.array([DEFAULT_LENGTH])])
    usual = int(np.median(lengths)) if asked or rated else min(DEFAULT_LENGTH, int(truth.steps.min()))
    return draw_pairs(truth, length=query["length"] or usual, count=query["count"], seed=query["seed"])


def union(asked: list[Clips]) -> Clips:
    """Each pair once, of those that several raters were asked."""
    rows = np.concatenate([np.column_stack([own.episode, own.first, own.length]) for own in asked])
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    return Clips(rows[:, :2], rows[:, 2:4], rows[:, 4])


def warn_of_training(sources: Mapping[str, Source], pairs: Clips, material: Material) -> list[str]:
    """Sentences about judges that have learnt from the answers to the pairs which they are judged on."""
    found = []
    if any(source.trained_on for source in sources.values()):
        clips = [
            tuple(sorted(Clip(material.ids[e], int(f), int(n)) for e, f in zip(episodes, firsts, strict=True)))
            for episodes, firsts, n in zip(pairs.episode, pairs.first, pairs.length, strict=True)
        ]
        for name, source in sources.items():
            seen = sum(pair in source.trained_on for pair in clips)
            if seen:
                found.append(f"{name} has learnt from answers to {seen} of the {len(clips)} pairs that it is judged on")
    return found


def describe(config: Mapping[str, Any], material: Material, pairs: Clips) -> dict[str, Any]:
    """The data set and what was drawn, for the report."""
    truth, lengths = material.truth, np.unique(pairs.length)
    return {
        "data": {
            "name": describe_data(config["env"], config["data"]),
            "data_seed": config["data_seed"],
            "dataset": material.content_hash,
            "episodes": len(truth.steps),
            "steps": int(truth.steps.sum()),
            "successes": None if truth.is_success is None else int(truth.is_success.sum()),
            "has_rewards": truth.reward is not None,
        },
        "pairs": {
            "which": config["query"]["pairs"],
            "count": len(pairs),
            "length": [int(lengths[0]), int(lengths[-1])],
            "seed": config["query"]["seed"],
        },
        "changes": find_changes(config),
        "bootstrap": {"resamples": config["resamples"], "seed": config["seed"], "interval": "95 %, percentiles"},
    }
