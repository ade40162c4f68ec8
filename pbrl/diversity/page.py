"""An archive as pictures: a heat map of its cells, and the best behaviour of each part of the grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pbrl.data.frames import without_images
from pbrl.data.rollout import make_environment
from pbrl.data.video import frames
from pbrl.diversity.search import Search
from pbrl.diversity.settings import Settings
from pbrl.judge.charts import save
from pbrl.run.folder import env_name
from pbrl.run.page import embed, write_page
from pbrl.types import Environment, Episode, UserError
from pbrl.vlm.pictures import encode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 4  # pixels between behaviours


class Shown(NamedTuple):
    """The best solutions [n, P] of n parts of the grid, the parts' places [n, 2] in it, and the qualities [n]."""

    solutions: np.ndarray
    places: np.ndarray
    quality: np.ndarray


def choose(search: Search, parts: int) -> Shown:
    """The best behaviour of each of `parts` x `parts` parts of the grid that hold any."""
    elites, (low, high) = search.elites, search.bounds
    places = np.clip((parts * (elites.measures - low) / (high - low)).astype(int), 0, parts - 1)  # [N, 2]
    order = np.lexsort((-elites.quality, places[:, 1], places[:, 0]))
    best = order[np.unique(places[order], axis=0, return_index=True)[1]]
    return Shown(elites.solutions[best], places[best], elites.quality[best])


def write_pages(
    settings: Settings, search: Search, shown: Shown, played: list[Episode], result: dict[str, Any], folder: Path
) -> None:
    """Writes archive.png and index.html; without pictures of behaviours where nothing renders. Raises UserError."""
    env = make_environment(without_images(settings.env))
    try:
        strips = [draw_strip(env, episode, settings.pictures) for episode in played]
    except (RuntimeError, UserError) as error:
        print(f"no pictures of behaviours: {error}")
        strips = []
    words = [describe(env, episode, quality) for episode, quality in zip(played, shown.quality, strict=True)]
    env.close()
    parts = settings.pictures["parts"]
    save(draw_archive(search, tile(strips, shown.places, parts) if strips else None), folder / "archive.png")
    rows: list[list[Any]] = [[None] * parts for _ in range(parts)]
    for i, (x, y) in enumerate(shown.places):
        rows[parts - 1 - y][x] = {"picture": embed(encode(strips[i]), "jpeg") if strips else None, "words": words[i]}
    context = {
        "title": f"{env_name(settings.env)}: behaviours that differ",
        "result": result,
        "rows": rows,
        "map": embed((folder / "archive.png").read_bytes(), "png"),
    }
    write_page(folder / "index.html", "diversity.html", context)


def draw_strip(env: Environment, episode: Episode, pictures: dict[str, Any]) -> np.ndarray:
    """`frames` frames of an episode side by side, from a half to its end: [size, frames * size, 3]."""
    steps = np.linspace(len(episode.action) // 2, len(episode.action), pictures["frames"]).round().astype(int)
    size = {"width": pictures["size"], "height": pictures["size"]}
    return np.concatenate([next(frames(env, episode, first=t, last=t + 1, **size)) for t in steps], 1)


def describe(env: Environment, episode: Episode, quality: float) -> str:
    """An episode's quality, and the mean of each attribute that its environment measures."""
    measured = {} if episode.state is None else env.measure(episode.seed, episode.state) if env.attributes else {}
    known = {name: float(np.nanmean(each)) for name, each in measured.items() if not np.isnan(each).all()}
    return ", ".join(f"{name} {value:.3g}" for name, value in {"quality": quality, **known}.items())


def tile(strips: list[np.ndarray], places: np.ndarray, parts: int) -> np.ndarray:
    """Strips [H, W, 3] at their places [n, 2] of a sheet, whose first row is the uppermost part."""
    height, width, _ = strips[0].shape
    sheet = np.full((parts * (height + GAP) - GAP, parts * (width + GAP) - GAP, 3), 255, np.uint8)
    for strip, (x, y) in zip(strips, places, strict=True):
        top, left = (parts - 1 - y) * (height + GAP), x * (width + GAP)
        sheet[top : top + height, left : left + width] = strip
    return sheet


def draw_archive(search: Search, sheet: np.ndarray | None) -> Figure:
    """The quality of each cell's best behaviour, and beside it what the best of each part looks like."""
    from matplotlib.figure import Figure

    data, (low, high), cells = search.archive.data(), search.bounds, search.archive.dims
    grid = np.full(cells[0] * cells[1], np.nan)
    grid[data["index"]] = data["objective"]
    widths = [4.6] if sheet is None else [4.6, 4.2 * sheet.shape[1] / sheet.shape[0]]
    figure = Figure(figsize=(sum(widths), 4.2), layout="constrained")
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    extent = (low[0], high[0], low[1], high[1])
    drawn = axes[0].imshow(grid.reshape(cells).T, origin="lower", extent=extent, aspect="auto")
    axes[0].set(xlabel="first measure", ylabel="second measure")
    figure.colorbar(drawn, ax=axes[0], label="quality")
    if sheet is not None:
        axes[1].imshow(sheet)
        axes[1].set(xlabel="first measure", xticks=[], yticks=[])
    return figure
