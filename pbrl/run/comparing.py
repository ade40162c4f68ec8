"""Several runs side by side: those that differ in their seed alone are one method, with a mean and a spread."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from markupsafe import Markup

from pbrl.run import charts, choices
from pbrl.run.charts import Curve, Level
from pbrl.run.outcome import Outcome, SeedOutcome, measure
from pbrl.run.summary import BASELINE

FREE = (
    "seed", "seeds", "run", "feedback.seed", "device", "threads", "workers", "compile", "compare", "algo@baseline",
    "video", "logger", "only", "data_dir", "store", "checkpoint_every", "log_every",
)  # fmt: skip  # settings that make no other method


class Method(NamedTuple):
    """Runs with the same settings: the settings that other methods have otherwise, the runs, and all their seeds."""

    name: str
    runs: list[Outcome]

    @property
    def seeds(self) -> list[SeedOutcome]:
        """Each seed once, where it was trained furthest: the same seed again is the same training."""
        found: dict[int, SeedOutcome] = {}
        for seed in sorted((seed for run in self.runs for seed in run.seeds), key=lambda one: len(one.evaluations)):
            found[seed.number] = seed
        return [found[number] for number in sorted(found)]


def methods(runs: Sequence[Outcome]) -> list[Method]:
    """The runs by method, in the order given; a method is named by what differs from the others."""
    groups: dict[str, list[Outcome]] = {}
    values = {id(run): _values(run) for run in runs}
    for run in runs:
        groups.setdefault(repr(sorted(values[id(run)].items())), []).append(run)
    firsts = [values[id(group[0])] for group in groups.values()]
    keys = [key for key in dict.fromkeys(k for f in firsts for k in f) if len({f.get(key) for f in firsts}) > 1]
    chosen = [key for key in keys if "." not in key]
    parts = {key.partition("@")[2] or key for key in chosen}
    shown = [key for key in keys if key in chosen or key.partition(".")[0] not in parts]
    return [
        Method(", ".join(f"{key}={first[key]}" for key in shown if key in first) or _title(group[0]), group)
        for first, group in zip(firsts, groups.values(), strict=True)
    ]


def _values(run: Outcome) -> dict[str, str]:
    """What makes a run another method, by key."""
    return {
        s.key: s.value
        for s in choices.settings(run.config)
        if s.key not in FREE and not s.key.startswith(("baseline.", "logger."))
    }


def _title(run: Outcome) -> str:
    name = choices.names(run.config)
    return f"{name['env']} {name['algo']}"


def curve(name: str, seeds: Sequence[SeedOutcome]) -> Curve:
    """Evaluations over updates: of one seed with 95 % intervals; of several the mean, between lowest and highest."""
    found = [seed for seed in seeds if seed.evaluations]
    if len(found) == 1:
        events = found[0].evaluations
        intervals = [e["return_interval" if measure(e) == "return_mean" else "success_interval"] for e in events]
        low, high = ([interval[k] for interval in intervals] for k in (0, 1))
        return Curve(name, [e["step"] for e in events], [e[measure(e)] for e in events], low, high)
    by_step = [{e["step"]: e[measure(e)] for e in seed.evaluations} for seed in found]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    values = [[one[step] for one in by_step] for step in steps]
    return Curve(name, steps, [mean(v) for v in values], [min(v) for v in values], [max(v) for v in values])


def levels(run: Outcome) -> list[Level]:
    """The data and the baseline (the mean of its seeds), as lines to compare a curve with."""
    found = [Level("data", run.data[measure(run.data)])] if run.data else []
    last = [seed.baseline_evaluations[-1] for seed in run.seeds if seed.baseline_evaluations]
    if last:
        found.append(Level(f"baseline ({BASELINE})", mean(event[measure(event)] for event in last)))
    return found


def context(runs: Sequence[Outcome], start: Path) -> dict[str, Any]:
    """What the comparing page shows; links lead from the folder `start`."""
    found = methods(runs)
    tasks = list(dict.fromkeys(choices.names(run.config)["env"] for run in runs))
    rows = [_row(method, start) for method in found]
    key = next((row["measure"] for row in rows if row["measure"]), "success")
    drawn = [method for method in found if any(seed.evaluations for seed in method.seeds)]
    lines = [curve(method.name, method.seeds) for method in drawn]
    words = f"{key.replace('_mean', '')} over updates; at the end: " + "; ".join(
        f"{line.name} {line.values[-1]:.3g}" for line in lines if line.values
    )
    figure = charts.curves(lines, levels(runs[0]) if len(tasks) == 1 else [], key) if lines else None
    return {
        "tasks": tasks,
        "rows": rows,
        "measure": key,
        "words": words,
        "count": len(runs),
        "curve": None if figure is None else Markup(charts.svg(figure, words)),
    }


def _row(method: Method, start: Path) -> dict[str, Any]:
    """A method's row: of its seeds the mean and the standard deviation, or the interval of the one there is."""
    last = [seed.evaluations[-1] for seed in method.seeds if seed.evaluations]
    best = [seed.best for seed in method.seeds if seed.best]
    values = [event[measure(event)] for event in last]
    baseline = [seed.baseline_evaluations[-1] for seed in method.seeds if seed.baseline_evaluations]
    data = method.runs[0].data
    key = measure(last[0]) if last else ""
    return {
        "name": method.name,
        "measure": key,
        "seeds": len(method.seeds),
        "unfinished": sum(not run.is_finished for run in method.runs),
        "last": mean(values) if values else None,
        "deviation": stdev(values) if len(values) > 1 else None,
        "interval": last[0]["success_interval" if key == "success" else "return_interval"] if len(last) == 1 else None,
        "best": mean(event[measure(event)] for event in best) if best else None,
        "baseline": mean(event[measure(event)] for event in baseline) if baseline else None,
        "data": data[measure(data)] if data else None,
        "links": [
            (
                run.folder.name,
                Path(os.path.relpath(run.folder / "index.html", start)).as_posix(),
                (run.folder / "index.html").exists(),
            )
            for run in method.runs
        ],
    }
