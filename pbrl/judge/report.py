"""What was measured, as `judge.json` has it and as a table."""

from collections.abc import Mapping
from typing import Any

from pbrl.judge.evidence import Source
from pbrl.judge.judging import MEASURES, OF_PICTURES, Verdict
from pbrl.judge.of_pictures import ORDER_BLIND

TITLES = {
    "pair_accuracy": "pair accuracy",
    "voc": "value-order correlation (VOC)",
    "reward_correlation": "with the true reward",
    "cumulative_correlation": "with the reward so far",
    "return_to_go_correlation": "with the return to go",
    "kendall_tau": "Kendall's tau of episodes",
    "spearman": "Spearman's of episodes",
    "failure_auc": "failure ROC-AUC",
    "calibration_error": "calibration error",
    "brier_score": "Brier score",
    "position_bias": "position bias",
    "tie_rate": "ties",
    "skip_rate": "skipped",
    "order_effect": "reversed videos: SDs lower",
    "reversed_lower": "reversed videos: share lower",
    "camera_true_correlation": "camera moved: true returns",
    "camera_episode_correlation": "camera moved: episodes",
    "camera_frame_correlation": "camera moved: frames",
    "light_true_correlation": "other light: true returns",
    "light_episode_correlation": "other light: episodes",
    "light_frame_correlation": "other light: frames",
}
DESCRIBED = 28  # characters of the column of names


def to_dict(
    described: Mapping[str, Any], sources: Mapping[str, Source], found: Mapping[str, Verdict]
) -> dict[str, Any]:
    """All of it as JSON holds it: a measure that there is not has the value null, and why."""
    judged = {
        name: {
            "gives": sources[name].form,
            **sources[name].about,
            "measures": {key: one._asdict() for key, one in own.measures.items()},
            "accuracy_by_gap": [group._asdict() for group in own.by_gap],
            "reliability": [group._asdict() for group in own.reliability],
        }
        for name, own in found.items()
    }
    return {**described, "sources": judged}


def lines(result: Mapping[str, Any]) -> str:
    """A table, a column for each source; below it, why there are dashes."""
    sources, data, pairs = result["sources"], result["data"], result["pairs"]
    successes = "" if data["successes"] is None else f", {data['successes']} successes"
    low, high = pairs["length"]
    text = [
        f"data      {data['name']}: {data['episodes']} episodes, {data['steps']} steps{successes}",
        f"pairs     {pairs['count']} {pairs['which']}, of {low if low == high else f'{low} to {high}'} steps",
        f"intervals {result['bootstrap']['interval']} of {result['bootstrap']['resamples']} bootstrap resamples",
        *(f"WARNING   {words}" for words in result["warnings"]),
        "",
    ]
    rows = shown_rows(sources)
    cells = {name: [cell(own["measures"][key]) for key in rows] for name, own in sources.items()}
    widths = {name: max(len(name), *map(len, column)) + 2 for name, column in cells.items()}
    chances = [_chance(sources, key) for key in rows]
    text.append(f"{'':{DESCRIBED}}{'chance':>8}" + "".join(f"{name:>{widths[name]}}" for name in sources))
    for i, key in enumerate(rows):
        row = "".join(f"{cells[name][i]:>{widths[name]}}" for name in sources)
        text.append(f"{TITLES[key]:{DESCRIBED + 2}}{chances[i]:>6}{row}")
        floors = {name: own["measures"][key]["floor"] for name, own in sources.items()}
        if any(floor is not None for floor in floors.values()):
            row = "".join(f"{'–' if (x := floors[name]) is None else f'{x:.2f}':>{widths[name]}}" for name in sources)
            text.append(f"{'  of a calibrated judge':{DESCRIBED + 8}}{row}")
    why = list_reasons(sources)
    return "\n".join([*text, *[""] * bool(why), *(f"–  {words}" for words in why)])


def table(sources: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """The rows of a table: a measure, its chance level, and a cell for each source."""
    return [
        (TITLES[key], _chance(sources, key), [cell(own["measures"][key]) for own in sources.values()])
        for key in shown_rows(sources)
    ]


def shown_rows(sources: Mapping[str, Any]) -> list[str]:
    """The measures that are shown: those of pictures where a source has one, or could by what it reads."""
    measured = {key for own in sources.values() for key, one in own["measures"].items() if one["value"] is not None}
    blind = {key for own in sources.values() for key, one in own["measures"].items() if one["why"] == ORDER_BLIND}
    return [key for key in MEASURES if key not in OF_PICTURES or key in measured | blind]


def cell(one: Mapping[str, Any]) -> str:
    """A measure with its interval."""
    if one["value"] is None:
        return "–"
    if one["low"] is None:
        return f"{one['value']:.2f}"
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _chance(sources: Mapping[str, Any], key: str) -> str:
    found = [own["measures"][key]["chance"] for own in sources.values() if own["measures"][key]["chance"] is not None]
    return f"{found[0]:g}" if found else ""


def list_reasons(sources: Mapping[str, Any]) -> list[str]:
    """Why there are dashes: each reason once, with the measures and sources that it is about."""
    by: dict[tuple[str, str], list[str]] = {}
    for name, own in sources.items():
        reasons: dict[str, list[str]] = {}
        for key in shown_rows(sources):
            one = own["measures"][key]
            if one["why"]:
                reasons.setdefault(one["why"], []).append(TITLES[key])
        for why, titles in reasons.items():
            by.setdefault((", ".join(titles), why), []).append(name)
    return [f"{', '.join(names)}: {titles}: {why}" for (titles, why), names in by.items()]
