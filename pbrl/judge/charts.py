"""The picture of a judgement: accuracy by how clear the case is, reliability, measures, and scores along episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbrl import files
from pbrl.judge.case import Group
from pbrl.judge.evidence import Source, Truth
from pbrl.judge.judging import Verdict
from pbrl.run.charts import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "0.2"
MARKERS = "osD^vPX*"
BARS = {  # measures of which more is better, from 0 to 1 or -1 to 1
    "pair_accuracy": "pair accuracy",
    "failure_auc": "failure AUC",
    "voc": "order, time (VOC)",
    "reward_correlation": "order, true reward",
    "cumulative_correlation": "order, reward so far",
    "kendall_tau": "Kendall's tau",
    "camera_episode_correlation": "camera moved",
    "light_episode_correlation": "other light",
    "position_bias": "position bias",
}
SHOWN = 3  # episodes
RANGE = (1, 99)  # percentiles of a score over the data set, drawn as 0 and 1


def draw(truth: Truth, sources: Mapping[str, Source], found: Mapping[str, Verdict]) -> Figure:
    """The figure of all sources."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with rc_context({**dict.fromkeys(names, INK), "font.size": 9, "axes.titlesize": 10}):  # type: ignore[arg-type]
        scored = {name: source for name, source in sources.items() if source.form in ("reward", "value")}
        figure = Figure(figsize=(11, 6.6 if scored else 3.7), layout="constrained")
        panels = figure.subplots(2 if scored else 1, 3, squeeze=False)
        _draw_gaps(panels[0, 0], found)
        _draw_reliability(panels[0, 1], found)
        _draw_measures(panels[0, 2], found)
        if scored:
            _draw_episodes(panels[1], truth, scored, list(found))
        for axes in panels.ravel():
            axes.grid(color=INK, alpha=0.12)
            axes.spines[["top", "right"]].set_visible(False)
        handles = _handles(list(found))
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6), frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes it as a PNG. Raises UserError where it cannot be written."""
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=100, pil_kwargs={"optimize": True})


def style(place: int) -> dict[str, Any]:
    """Colour and marker of the source at a place."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _handles(names: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=name, markersize=5, **style(i)) for i, name in enumerate(names)]


def _draw_gaps(axes: Axes, found: Mapping[str, Verdict]) -> None:
    """Each group of pairs at its median gap, from the closest to the clearest cases."""
    for i, own in enumerate(found.values()):
        _errors(axes, own.by_gap, i)
    axes.axhline(0.5, color=INK, linestyle=":", linewidth=1.2)
    gaps = [group.x for own in found.values() for group in own.by_gap]
    if gaps and max(gaps) > 20 * min(gaps):
        axes.set_xscale("log")
    axes.set(xlabel="difference of the true returns of two clips", ylabel="right", ylim=(-0.03, 1.03))
    axes.set_title("Pair accuracy, close and clear cases")


def _draw_reliability(axes: Axes, found: Mapping[str, Verdict]) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1.2)
    for i, own in enumerate(found.values()):
        _errors(axes, own.reliability, i)
    if not any(own.reliability for own in found.values()):
        axes.text(0.5, 0.25, "no source gives probabilities", ha="center", alpha=0.7)
    axes.set(xlabel="P(second preferred), as the source says", ylabel="second is better", xlim=(-0.03, 1.03))
    axes.set(ylim=(-0.03, 1.03))
    axes.set_title("Reliability")


def _errors(axes: Axes, groups: list[Group], place: int) -> None:
    """Shares with their intervals."""
    if groups:
        x, share = [group.x for group in groups], np.array([group.share for group in groups])
        low, high = (np.array([np.nan if v is None else v for v in side], float) for side in
                     zip(*((group.low, group.high) for group in groups), strict=True))  # fmt: skip
        reach = np.maximum(np.stack([share - low, high - share]), 0)
        axes.errorbar(x, share, reach, markersize=4, linewidth=1.2, elinewidth=0.9, capsize=2, **style(place))


def _draw_measures(axes: Axes, found: Mapping[str, Verdict]) -> None:
    """A row for each measure that any source has, with its chance level."""
    rows = [key for key in BARS if any(own.measures[key].value is not None for own in found.values())]
    step = 0.7 / max(len(found), 1)
    for y, key in enumerate(rows):
        if y % 2:
            axes.axhspan(y - 0.5, y + 0.5, color=INK, alpha=0.05, linewidth=0)
        for i, own in enumerate(found.values()):
            one = own.measures[key]
            if one.value is not None:
                at = y + (i - (len(found) - 1) / 2) * step
                if one.low is not None and one.high is not None:
                    axes.plot([one.low, one.high], [at, at], color=style(i)["color"], linewidth=2, alpha=0.5)
                axes.plot([one.value], [at], markersize=4.5, linestyle="", **style(i))
                axes.vlines(one.chance or 0.0, y - 0.45, y + 0.45, color=INK, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [BARS[key] for key in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="with 95 % intervals; dotted: chance")
    axes.set_title("Measures")


def _draw_episodes(panels: Any, truth: Truth, scored: Mapping[str, Source], names: list[str]) -> None:
    """Scores along three episodes: of a low, a middle and a high true return."""
    chosen = choose_episodes(truth)
    lines = {name: scale_scores(truth, source) for name, source in scored.items()}
    for axes, i in zip(panels, chosen, strict=False):
        if truth.reward is not None:
            true = unit_range(np.asarray(truth.reward))
            axes.plot(truth.split(true)[i], color=INK, linestyle="--", linewidth=1.1, label="true reward")
            if any(source.value is not None for source in scored.values()):
                so_far = np.cumsum(truth.split(truth.reward)[i])
                axes.plot(so_far / (np.abs(so_far).max() or 1), color=INK, linestyle=":", label="reward so far")
        for name, own in lines.items():
            axes.plot(own[i], color=style(names.index(name))["color"], linewidth=1.2, alpha=0.9)
        axes.set(xlabel="step", ylim=(-0.08, 1.08))
        axes.set_title(describe_episode(truth, i), fontsize=9)
        if truth.succeeded_at is not None and truth.succeeded_at[i] >= 0:
            axes.axvline(truth.succeeded_at[i], color=INK, linewidth=0.8, alpha=0.6)
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("score, from the data's least to its most")
    if truth.reward is not None:
        panels[0].legend(frameon=False, loc="upper left")


def choose_episodes(truth: Truth) -> list[int]:
    """Places of three episodes: at the 10th, 50th and 90th percentile of the true return, or of when they succeed."""
    by = truth.returns if truth.returns is not None else truth.succeeded_at
    order = np.argsort(np.zeros(len(truth.steps)) if by is None else by, kind="stable")
    last = len(order) - 1
    return [int(order[round(share * last)]) for share in (0.1, 0.5, 0.9)[: min(SHOWN, len(order))]]


def scale_scores(truth: Truth, source: Source) -> list[np.ndarray]:
    """The scores of each episode, from 0 to 1 over the data set."""
    values = source.reward if source.reward is not None else source.value
    assert values is not None
    return truth.split(unit_range(values))


def unit_range(values: np.ndarray) -> np.ndarray:
    """Their range over the data set as 0 to 1."""
    low, high = np.percentile(values, RANGE)
    return np.clip((values - low) / ((high - low) or 1.0), -0.05, 1.05)


def describe_episode(truth: Truth, i: int) -> str:
    """Its place, its true return and when it succeeds, as far as they are known."""
    words = [f"episode {i}"]
    if truth.returns is not None:
        words.append(f"return {truth.returns[i]:.4g}")
    if truth.succeeded_at is not None:
        at = truth.succeeded_at[i]
        words.append("fails" if at < 0 else f"success at {at}")
    return ", ".join(words)
