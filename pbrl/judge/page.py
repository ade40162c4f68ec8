"""What a report shows besides numbers: `index.html`, one file that opens by a double click, and `episodes.png`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from pbrl import files
from pbrl.judge import episodes, report
from pbrl.judge.charts import INK
from pbrl.judge.evidence import Source
from pbrl.judge.material import Material
from pbrl.run.charts import INK as PAGE_INK
from pbrl.run.charts import svg
from pbrl.run.page import embed, write_page


def write_pages(
    material: Material, sources: Mapping[str, Source], result: dict[str, Any], shown: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Writes the page beside `judge.png`, and the picture where there are scores along episodes; returns their paths.

    Raises UserError where they cannot be written.
    """
    truth, names, scored = material.truth, list(sources), episodes.find_scored(sources)
    films = make_films(material, scored, shown) if shown["frames"] and scored else []
    titles = [episodes.title_of(film, truth) for film in films]
    figures = [episodes.draw(film, truth, scored, names, PAGE_INK) for film in films]
    context = {
        "title": f"{', '.join(names)} on {result['data']['name']}",
        "result": result,
        "names": names,
        "rows": report.table(result["sources"]),
        "reasons": report.list_reasons(result["sources"]),
        "charts": [(title, Markup(svg(figure, title))) for title, figure in zip(titles, figures, strict=True)],
        "measures": embed((folder / "judge.png").read_bytes(), "png"),
        "hides": any(film.lost for film in films),
        "matches": any(own.visual is not None and own.visual.is_matched for own in scored.values()),
    }
    written = [write_page(folder / "index.html", "judge.html", context)]
    if films:
        written.append(write_sheet(films, titles, material, sources, folder / "episodes.png"))
    return written


def make_films(material: Material, scored: Mapping[str, Source], shown: Mapping[str, Any]) -> list[episodes.Film]:
    """The episodes that are shown, with their frames and what hiding patches of them does."""
    chosen = episodes.choose_episodes(material.truth, scored)
    films = episodes.read_films(material, chosen, scored, count=shown["frames"], size=shown["size"])
    return episodes.hide_patches(films, scored, shown["occlusion"])


def write_sheet(
    films: list[episodes.Film], titles: list[str], material: Material, sources: Mapping[str, Source], path: Path
) -> Path:
    """Writes the same figures below each other as a PNG."""
    scored = episodes.find_scored(sources)
    figures = [
        episodes.draw(film, material.truth, scored, list(sources), INK, title)
        for film, title in zip(films, titles, strict=True)
    ]
    sheet = Image.fromarray(np.concatenate([episodes.to_pixels(figure) for figure in figures]))
    with files.replacing(path) as partial:
        sheet.save(partial, "png", optimize=True)
    return path
