"""Learning curves, drawn with Matplotlib: as a PNG, and as SVG whose text and axes take the colour of the page.

Matplotlib is imported where it draws: it takes most of a second, which a run spends at its end, if it gets there.
"""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3b82d6", "#d97706", "#2f9e63", "#a36bd6", "#dc5652", "#1f9aa8", "#a5784f", "#d0659d", "#8b8f98", "#8f9a2a")
STYLES = ("-", "--", "-.", ":")
INK = "#010203"  # stands for the colour of the page's text


class Curve(NamedTuple):
    """A line over updates, with the band around it."""

    name: str
    steps: list[int]
    values: list[float]
    low: list[float]
    high: list[float]


class Level(NamedTuple):
    """A horizontal line to compare with."""

    name: str
    value: float


def curves(lines: list[Curve], levels: list[Level], measure: str, title: str = "", ink: str = INK) -> Figure:
    """A figure of curves and levels; `measure` names the y axis, and success goes from 0 to 1."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = {"text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink}
    with rc_context({**colours, "font.size": 10}):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.4, 3.5), layout="constrained")
        axes = figure.subplots()
        for i, line in enumerate(lines):
            colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
            axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(line.steps, line.values, style, color=colour, marker="o", markersize=4, label=line.name)
        for level, style in zip(levels, (":", "--", "-."), strict=False):
            axes.axhline(level.value, color=ink, alpha=0.7, linestyle=style, linewidth=1.3, label=level.name)
        axes.set(xlabel="updates", ylabel=measure.replace("_mean", ""), title=title)
        axes.grid(color=ink, alpha=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        if measure == "success":
            axes.set_ylim(-0.03, 1.03)
        if lines or levels:
            axes.legend(
                frameon=False,
                loc="best" if len(lines) < 5 else "upper left",
                bbox_to_anchor=None if len(lines) < 5 else (1, 1),
            )
    return figure


def losses(events: list[dict[str, float]], ink: str = INK) -> Figure | None:
    """Small panels of what training logged of the policy; None where it logged nothing."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = [key for key in (events[-1] if events else {}) if key not in ("phase", "step", "seconds")]
    if not names:
        return None
    colours = {"text.color": ink, "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink}
    with rc_context({**colours, "font.size": 7}):  # type: ignore[arg-type]
        rows = -(-len(names) // 3)
        figure = Figure(figsize=(5.4, 1.4 * rows), layout="constrained")
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            found = [(event["step"], event[name]) for event in events if event.get(name) is not None]
            axes.plot([step for step, _ in found], [value for _, value in found], color=COLOURS[0], linewidth=1.2)
            axes.set_title(name.replace("_", " "), fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
    return figure


def svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element with a text alternative; `description` is escaped here."""
    from matplotlib import rc_context

    out = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()[out.getvalue().index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # ids of one chart are not those of the next
    for side in ("width", "height"):  # as wide as the page allows
        text = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(description, quote=True)}"', 1)
    return text.replace(INK, "currentColor")
