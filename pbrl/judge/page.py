"""What a report shows besides numbers: `index.html`, one file that opens by a double click, and `episodes.png`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from pbrl import files
from pbrl.judge import episodes, report
from pbrl.judge.evidence import Source
from pbrl.judge.material import Material
from pbrl.run.charts import INK, svg
from pbrl.run.page import embed, write_page


def write_pages(
    material: Material, sources: Mapping[str, Source], result: dict[str, Any], shown: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Writes the page beside `judge.png`, and the picture where there are scores along episodes; returns their paths.

    Raises UserError where they cannot be written.
    """
    truth, names, scored = material.truth, list(sources), episodes.find_scored(sources)
    films = make_films(material, scored, shown) if shown["frames"] and scored else []
    charts, sheets = [], []
    for film in films:
        title = episodes.title_of(film, truth)
        figure = episodes.draw(film, truth, scored, names, INK, title)
        sheets.append(episodes.to_pixels(figure))
        charts.append((title, Markup(svg(without_title(figure), title))))
    context = {
        "title": f"{', '.join(names)} on {result['data']['name']}",
        "result": result,
        "names": names,
        "rows": report.table(result["sources"]),
        "reasons": report.list_reasons(result["sources"]),
        "charts": charts,
        "measures": embed((folder / "judge.png").read_bytes(), "png"),
        "hides": any(film.lost for film in films),
        "matches": any(own.visual is not None and own.visual.is_matched for own in scored.values()),
    }
    written = [write_page(folder / "index.html", "judge.html", context)]
    if sheets:
        written.append(folder / "episodes.png")
        with files.replacing(written[-1]) as partial:
            Image.fromarray(np.concatenate(sheets)).save(partial, "png", optimize=True)
    return written


def without_title(figure: Any) -> Any:
    """The same, laid out as it is; the page has headings."""
    figure.set_layout_engine("none")
    figure.axes[0].set_title("")
    return figure


def make_films(material: Material, scored: Mapping[str, Source], shown: Mapping[str, Any]) -> list[episodes.Film]:
    """The episodes that are shown, with their frames and what hiding patches of them does."""
    chosen = episodes.choose_episodes(material.truth, scored)
    films = episodes.read_films(material, chosen, scored, count=shown["frames"], size=shown["size"])
    return episodes.hide_patches(films, scored, shown["occlusion"])
