"""The report of a run, `index.html` in its folder, and the page that compares several: one file each, opened offline.

Everything shown is read from the folder (see pbrl/run/outcome.py); Jinja escapes all of it but the charts.
"""

import base64
import shlex
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pbrl import files
from pbrl.feedback.store.address import hide_passwords
from pbrl.run import charts, choices, comparing
from pbrl.run.answers import rater_rows
from pbrl.run.outcome import Outcome, SeedOutcome, measure
from pbrl.run.summary import BASELINE

TEMPLATES = Path(__file__).parent / "templates"
FILES = {
    "policy.pt": "the policy at the end of training",
    "best.pt": "the policy that was evaluated best on the way",
    "policy.mp4": "episodes of the policy",
    "result.json": "the results, for programs",
    "metrics.jsonl": "every logged number, one event a line",
    "curve.png": "the learning curve as a picture",
    "answers.sqlite": "questions and answers",
    "config.yaml": "every setting",
    "versions.json": "versions and the hash of the data",
    "data.json": "what the data set holds, and what may be wrong with it",
    "checkpoint.pt": "where a stopped run goes on",
}


def write_run(run: Outcome) -> Path:
    """Writes the report of a run into its folder; returns its path."""
    return write_page(run.folder / "index.html", "run.html", _run(run))


def write_comparison(runs: list[Outcome], path: Path) -> Path:
    """Writes a page that compares runs; those that differ in their seed alone are one method. Returns its path."""
    return write_page(path, "compare.html", comparing.context(runs, path.parent) | {"title": "Comparison of runs"})


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": "{:.0%}".format, "number": "{:.4g}".format, "size": _size}
    return environment


def write_page(path: Path, template: str, context: dict[str, Any]) -> Path:
    """Writes a template of this project, with what it shows, as one file; returns its path. Raises UserError."""
    own = {name: Markup((TEMPLATES / name).read_text()) for name in ("style.css", "page.js")}
    text = _templates().get_template(template).render(css=own["style.css"], js=own["page.js"], **context)
    with files.replacing(path) as partial:  # a browser never loads half a page
        partial.write_text(text)
    return path


def embed(data: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _run(run: Outcome) -> dict[str, Any]:
    rows = _results(run)
    name = choices.names(run.config)
    learner = name["algo"] + (f" on {name['reward']}" if name["reward"] != "none" else "")
    settings = [setting._replace(value=hide_passwords(setting.value)) for setting in choices.settings(run.config)]
    return {
        "title": f"{name['env']}: {learner}",
        "run": run,
        "header": [(key, hide_passwords(text)) for key, text in run.start.get("header", [])],
        "steps": run.config["steps"],
        "rows": rows,
        "means": _means(run),
        "measure": rows[0]["measure"] if rows else "",
        "curve": _curve(run),
        "losses": _losses(run.seeds[0]),
        "videos": [str(path.relative_to(run.folder)) for path in _videos(run)],
        "answers": run.seeds[0].phase("answers"),
        "raters": rater_rows(run),
        "reward_model": [event for event in run.seeds[0].phase("held_out") if len(event) > 3],  # 3: none was held out
        "settings": settings,
        "changed": sum(setting.differs for setting in settings),
        "versions": {key: value for key, value in run.versions.items() if key != "continued_with"},
        "continued": run.versions.get("continued_with", []),
        "seconds": [seed.result["policy"]["seconds"] for seed in run.seeds if seed.result and seed.result["policy"]],
        "files": _files(run),
        "again": shlex.join(["python", "-m", "pbrl.run.report", str(run.folder)]),
    }


def _results(run: Outcome) -> list[dict[str, Any]]:
    """A row for each evaluation that is compared: of every seed the policy, its best and its baseline; of the data."""
    rows = []
    for seed in run.seeds:
        policy, baseline = seed.evaluations, seed.baseline_evaluations
        before = f"seed {seed.number}, " if len(run.seeds) > 1 else ""
        if policy:
            name = "policy" if run.is_finished else "policy so far"
            rows += [(f"{before}{name}", policy[-1]), (f"{before}best on the way", seed.best)]
        if seed.pretrained:
            rows.append((f"{before}before preferences", seed.pretrained))
        if baseline:
            rows.append((f"{before}baseline ({BASELINE})", baseline[-1]))
    if run.data:
        rows.append(("data", run.data))
    return [_row(name, event, [other for _, other in rows if other]) for name, event in rows if event]


def _means(run: Outcome) -> list[dict[str, Any]]:
    """Of several seeds: the mean and the standard deviation of their policies, their best, and their baselines."""
    groups = {
        "policy": [seed.evaluations[-1] for seed in run.seeds if seed.evaluations],
        "best on the way": [seed.best for seed in run.seeds if seed.best],
        f"baseline ({BASELINE})": [seed.baseline_evaluations[-1] for seed in run.seeds if seed.baseline_evaluations],
    }
    rows = []
    for name, events in groups.items():
        values = [event[measure(event)] for event in events]
        if len(values) > 1:
            rows.append({"name": name, "mean": mean(values), "deviation": stdev(values), "seeds": len(values)})
    return rows


def _row(name: str, event: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """What the table shows of an evaluation; the bar is its interval, in percent of the range of all rows."""
    key = measure(event)
    interval = event["success_interval"] if key == "success" else event["return_interval"]
    low = 0.0 if key == "success" else min(min(e["return_interval"][0], 0.0) for e in others)
    high = 1.0 if key == "success" else max(e["return_interval"][1] for e in others)
    low_, mid, high_ = (100 * (x - low) / ((high - low) or 1) for x in (interval[0], event[key], interval[1]))
    return {
        "name": name,
        "measure": key,
        "event": event,
        "interval": interval,
        "bar": {"low": low_, "mid": mid, "width": high_ - low_},
    }


def _curve(run: Outcome) -> dict[str, Any] | None:
    if not any(seed.evaluations for seed in run.seeds):
        return None
    line, levels = comparing.curve("policy", run.seeds), comparing.levels(run)
    key = measure(next(seed for seed in run.seeds if seed.evaluations).evaluations[0])
    figure = charts.curves([line], levels, key)
    words = f"{key.replace('_mean', '')} of the policy over updates: " + (
        f"from {line.values[0]:.3g} at update {line.steps[0]} to {line.values[-1]:.3g} at update {line.steps[-1]}"
    )
    words += "".join(f"; {level.name} {level.value:.3g}" for level in levels)
    band = "95 % interval" if len(run.seeds) == 1 else f"lowest to highest of {len(run.seeds)} seeds, line: their mean"
    return {"svg": Markup(charts.svg(figure, words)), "words": words, "band": band}


def _losses(seed: SeedOutcome) -> Markup | None:
    figure = charts.losses(seed.phase("policy"))
    return None if figure is None else Markup(charts.svg(figure, "what training logged, over updates"))


def _videos(run: Outcome) -> list[Path]:
    return [seed.folder / "policy.mp4" for seed in run.seeds if (seed.folder / "policy.mp4").exists()]


def _files(run: Outcome) -> list[dict[str, Any]]:
    places = list(dict.fromkeys([run.folder, *(seed.folder for seed in run.seeds)]))
    found = [(place / name, words) for place in places for name, words in FILES.items()]
    return [
        {"path": path.relative_to(run.folder).as_posix(), "words": words, "size": path.stat().st_size}
        for path, words in found
        if path.exists()
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{max(count / 1e3, 0.1):.1f} kB"
