"""A few episodes with their scores beside their frames: what a judge likes, seen.

The best, the median and the worst by the true return, and of each judge the failure that it scores highest. Below a
reward of likeness lies how it has matched the frames, below one of pictures what it loses when a patch is greyed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from pbrl.data.frames import without_images
from pbrl.data.rollout import make_environment
from pbrl.data.video import frames, square
from pbrl.judge.charts import describe_episode, scale_scores, style, unit_range
from pbrl.judge.evidence import Source, Truth
from pbrl.judge.material import Material
from pbrl.judge.visual import Visual
from pbrl.types import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0  # inches
CURVES, MATCH = 1.7, 2.1  # inches of a panel
BESIDE = 3  # frames of the preferred video beside a match
FAR = 95  # percentile of costs that is drawn black: one frame that is like nothing would leave the others white
PLAN = (0.86, 0.2, 0.15)  # color of a plan over its costs


class Film(NamedTuple):
    """An episode that is shown: its place, why, and F frames [H, W, 3] at its steps [F], none where nothing renders.

    `lost` are, of judges of pictures by name, what the reward of each of these steps loses by each hidden patch [P, P].
    """

    place: int
    why: str
    steps: np.ndarray
    frames: list[np.ndarray]
    lost: dict[str, list[np.ndarray]]


def choose_episodes(truth: Truth, sources: Mapping[str, Source]) -> dict[int, str]:
    """Places of the episodes that are shown, and why they are."""
    found: dict[int, list[str]] = {}
    if truth.returns is not None:
        order = np.argsort(-truth.returns, kind="stable")
        for at, why in ((0, "best"), (len(order) // 2, "median"), (-1, "worst")):
            found.setdefault(int(order[at]), []).append(f"{why} true return")
    else:
        found[0] = ["first"]
    bad = "failure" if truth.is_success is not None else "episode of the worse half"
    for name, source in sources.items():
        failures = np.flatnonzero(_is_failure(truth))
        if len(failures):
            liked = int(failures[np.argmax(_score_episodes(truth, source)[failures])])
            found.setdefault(liked, []).append(f"{bad} that {name} scores highest")
    return {place: ", ".join(why) for place, why in found.items()}


def _is_failure(truth: Truth) -> np.ndarray:
    """Episodes [N] that fail, or whose true return is below the median where success is unknown."""
    if truth.is_success is not None:
        return ~truth.is_success
    return truth.returns < np.median(truth.returns) if truth.returns is not None else np.zeros(len(truth.steps), bool)


def _score_episodes(truth: Truth, source: Source) -> np.ndarray:
    """The predicted return of each episode, or its last value [N]."""
    if source.value is not None:
        return np.array([own[-1] for own in truth.split(source.value)])
    assert source.reward is not None
    own = truth.split(source.reward)
    return np.array([reward[:steps].sum() for reward, steps in zip(own, truth.steps, strict=True)])


def read_films(
    material: Material, chosen: Mapping[int, str], sources: Mapping[str, Source], *, count: int, size: int
) -> list[Film]:
    """The episodes at these places with `count` frames each, as the first judge of pictures sees them."""
    visual = next((source.visual for source in sources.values() if source.visual is not None), None)
    films = []
    for place, why in chosen.items():
        length = len(material.episodes[place].action)
        steps = ((np.arange(min(count, length)) + 0.5) * length / min(count, length)).astype(int)
        films.append(Film(place, why, steps, [], {}))
    try:
        return [film._replace(frames=_read_frames(material, film, visual, size)) for film in films]
    except (RuntimeError, UserError) as error:
        print(f"no frames of episodes: {error}")
        return films


def _read_frames(material: Material, film: Film, visual: Visual | None, size: int) -> list[np.ndarray]:
    if visual is not None:
        first = int(visual.table.first[film.place])
        return [square(np.asarray(visual.images[first + t]), size) for t in film.steps]
    env = make_environment(without_images(material.env)) if material.env.get("_target_") else None
    try:
        own = material.episodes[film.place]
        every = (next(frames(env, own, width=size, height=size, first=t, last=t + 1)) for t in film.steps)
        return [square(frame, size) for frame in every]
    finally:
        if env is not None:
            env.close()


def hide_patches(films: list[Film], sources: Mapping[str, Source], patches: int) -> list[Film]:
    """The same with what judges of pictures lose by hidden patches, so many a side; 0: none are hidden."""
    reads = {name: source.visual for name, source in sources.items() if source.visual} if patches else {}
    return [
        film._replace(
            lost={
                name: [visual.occlude(film.place, int(t), patches) for t in film.steps]
                for name, visual in reads.items()
            }
        )
        for film in films
    ]


# Drawing


def draw(
    film: Film, truth: Truth, sources: Mapping[str, Source], names: list[str], ink: str, title: str = ""
) -> Figure:
    """An episode's frames and scores, and how judges of pictures see it: panels that have the time in common."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colors = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    matches = {name: own for name, source in sources.items() if (own := _match(source, film.place)) is not None}
    strip, lost = [WIDTH / max(len(film.steps), 1)], film.lost if film.frames else {}
    heights = [*strip * bool(film.frames), CURVES, *[MATCH] * len(matches), *strip * len(lost)]
    with rc_context({**dict.fromkeys(colors, ink), "font.size": 9}):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH + 1.5, sum(heights) + 0.6), layout="constrained")
        panels = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        panels[0].set_title(title)
        if film.frames:
            _draw_strip(panels.pop(0), film.frames, int(truth.steps[film.place]))
        _draw_scores(panels.pop(0), film.place, truth, sources, names, ink)
        for name, match in matches.items():
            _draw_match(panels.pop(0), name, match)
        for name, own in lost.items():
            _draw_occlusion(panels.pop(0), name, film, own, int(truth.steps[film.place]))
        figure.axes[-1].set(xlim=(0, truth.steps[film.place]), xlabel="step")
    return figure


class Matched(NamedTuple):
    """Costs and plan [T, M] of an episode, and frames of the preferred video, from its first on, where it is known."""

    cost: np.ndarray
    plan: np.ndarray
    frames: np.ndarray | None


def _match(source: Source, place: int) -> Matched | None:
    """How an episode is matched, where its judge matches frames."""
    visual = source.visual
    match = visual.match(place) if visual else None
    if visual is None or match is None:
        return None
    liked = None if visual.preferred is None else visual.preferred[int(match.video.median())]
    return Matched(match.cost.cpu().numpy(), match.plan.cpu().numpy(), liked)


def _draw_strip(axes: Axes, shown: list[np.ndarray], length: int) -> None:
    """Frames side by side, each in the middle of its part of the time."""
    side = length / len(shown)
    for i, frame in enumerate(shown):
        axes.imshow(frame, extent=((i + 0.02) * side, (i + 0.98) * side, 0, 1), aspect="auto")
    axes.set(ylim=(0, 1), xlim=(0, length))
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False)


def _draw_scores(
    axes: Axes, place: int, truth: Truth, sources: Mapping[str, Source], names: list[str], ink: str
) -> None:
    """Scores and the true reward of each step, from the data's least to its most."""
    if truth.reward is not None:
        true = truth.split(unit_range(truth.reward))[place]
        axes.plot(np.arange(len(true)) + 0.5, true, color=ink, linestyle="--", linewidth=1.1, label="true reward")
    for name, source in sources.items():
        own = scale_scores(truth, source)[place]
        color = style(names.index(name))["color"]
        axes.plot(np.arange(len(own)) + 0.5, own, color=color, linewidth=1.4, label=name)
    axes.set(ylim=(-0.08, 1.08), ylabel="score")
    axes.grid(color=ink, alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_match(axes: Axes, name: str, match: Matched) -> None:
    """Distances in grey, the darker the farther, and over them the plan; at the side the preferred video, upwards."""
    kept = ~np.isnan(match.cost).all(0)
    cost, plan = match.cost[:, kept], match.plan[:, kept]
    how: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    how["extent"] = (0, len(cost), 0, cost.shape[1])
    axes.imshow(cost.T, cmap="Greys", vmin=0.0, vmax=float(np.percentile(cost, FAR)), **how)
    over = np.empty((*plan.T.shape, 4))
    over[..., :3], over[..., 3] = PLAN, np.sqrt(plan.T / max(float(np.nanmax(plan)), 1e-9))
    axes.imshow(over, **how)
    axes.set(ylabel=f"{name}:\nframe of the\npreferred video")
    if match.frames is not None:
        _draw_beside(axes, match.frames)


def _draw_beside(axes: Axes, video: np.ndarray) -> None:
    """Frames of a video [M, H, W, 3] at the right of a panel, each in the middle of its part, the first one lowest."""
    places = ((np.arange(BESIDE) + 0.5) * len(video) / BESIDE).astype(int)
    side = axes.inset_axes((1.01, 0.0, MATCH / BESIDE / WIDTH, 1.0))
    for i, at in enumerate(places):
        side.imshow(video[at], extent=(0, 1, i + 0.02, i + 0.98), aspect="auto")
    side.set(ylim=(0, BESIDE), xlim=(0, 1))
    side.set_axis_off()


def _draw_occlusion(axes: Axes, name: str, film: Film, lost: list[np.ndarray], length: int) -> None:
    """Each frame in grey, and over it what hiding a patch of it takes from its reward: red; what it adds: blue."""
    from matplotlib import colormaps

    most = max(float(np.abs(lost).max()), 1e-9)
    shown = []
    for frame, own in zip(film.frames, lost, strict=True):
        heat = Image.fromarray((127.5 * (own / most + 1)).round().astype(np.uint8)).resize(frame.shape[1::-1])
        signed = np.asarray(heat) / 127.5 - 1  # [H, W] in [-1, 1]
        color = colormaps["bwr"](0.5 + 0.5 * signed)[..., :3]
        weight = np.abs(signed)[..., None] ** 0.5
        grey = np.repeat(frame.mean(2, keepdims=True) / 255, 3, 2)
        shown.append((1 - weight) * (0.5 + 0.5 * grey) + weight * color * (0.5 + 0.5 * grey))
    _draw_strip(axes, shown, length)
    axes.set(ylabel=f"{name}:\nhidden patches,\nup to {most:.2g} SD")


def to_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """A figure as a picture [H, W, 3] uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def title_of(film: Film, truth: Truth) -> str:
    """An episode in words."""
    return f"{film.why[0].upper()}{film.why[1:]}: {describe_episode(truth, film.place)}"


def find_scored(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Those that score steps or frames."""
    return {name: source for name, source in sources.items() if source.form in ("reward", "value")}
