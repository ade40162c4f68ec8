"""What a run prints: a header that says what is learned from what, and at the end how good the policy became.

Every line begins with a word that a script can search for, and its text begins in one column.
"""

from pathlib import Path
from typing import Any

from pbrl.run import choices
from pbrl.training.evaluate import Evaluation

WIDTH = 10  # of the first column
BASELINE = "BC"


def header(config: dict[str, Any], folder: Path, data: str, asks: bool, device: str) -> list[tuple[str, str]]:
    """The lines of a run's header: name and text. `data` and `device` in words; `asks`: whether answers are used."""
    name, seeds = choices.names(config), config["seeds"]
    rows = [
        ("run", str(folder)),
        ("task", name["env"]),
        ("data", f"{name['data']}: {data}"),
        (
            "answers",
            _answers(config, name["feedback"]) if asks else f"none: learns from {_unasked(config)}, or imitates",
        ),
    ]
    if config["reward"]["_target_"]:
        taught = f"objective {name['reward_objective']}" if asks else "no answers"
        rows.append(("reward", _part("reward", name["reward"], taught)))
    of = f"{seeds} seeds from {config['seed']} on" if seeds > 1 else f"seed {config['seed']}"
    rows.append(("policy", _part("algo", name["algo"], f"{config['steps']:,} updates, {of}")))
    compared = f"{name['baseline']} on the same data, {config['steps']:,} updates"
    rows.append(("baseline", compared if config["compare"] else "none (compare=false)"))
    rows.append(("device", device))
    return rows


def _answers(config: dict[str, Any], source: str) -> str:
    query = config["query"]
    many = f"{query['count']:,} × {query['kind']}" if config["feedback"].get("count", 0) is not None else query["kind"]
    rounds = f" in {query['rounds']} rounds" if query["rounds"] > 1 else ""
    return _part("feedback", source, f"{many}, segments of {query['length']} steps{rounds}")


def _unasked(config: dict[str, Any]) -> str:
    """Where the rewards of a run without answers come from."""
    return "a reward that needs none" if config["reward"]["_target_"] else "the true reward"


def _part(folder: str, choice: str, more: str) -> str:
    """A choice by name, what the run uses it for, and what it is."""
    known = choice in choices.choices(folder)
    words = choices.description(folder, choice).partition(":")[0].rstrip(".") if known else ""
    return f"{choice}: {more}" + (f" ({words})" if 0 < len(words) <= 70 else "")


def lines(rows: list[tuple[str, str]]) -> str:
    """Rows as aligned text."""
    return "\n".join(f"{name:{WIDTH}}{text}" for name, text in rows)


def results(result: dict[str, Any], name: str = "") -> str:
    """The table of one seed's `result.json`: data, baseline and policy with their intervals, reward model, answers."""
    title = ", ".join(filter(None, [_task(result["env"]), name, "95 % intervals"]))
    rows = [(row, f"{evaluation}, {evaluation.episodes} episodes") for row, evaluation in evaluations(result)]
    tested = [
        f"{key} {value:.2f}"
        for key, value in (result["reward_model"] or {}).items()
        if key != "round" and value is not None
    ]
    if tested:
        rows.append(("reward model", ", ".join(tested)))
    if result["answers"]:
        rows.append(("answers", ", ".join(f"{v} {k}" for k, v in result["answers"].items())))
    return "\n".join([f"\n{title}", *(f"  {row:20s} {text}" for row, text in rows)])


def _task(env: dict[str, Any]) -> str:
    return env.get("task") or str(env.get("name") or "").rpartition("/")[2]


def evaluations(result: dict[str, Any]) -> list[tuple[str, Evaluation]]:
    """What a result compares, by name: the data, the baseline, the policy at its end and at its best."""
    summary, baseline = result["policy"], result["bc"]
    rows = [("data", result["data"])]
    if baseline:
        rows.append((BASELINE, baseline["last"]))
    if summary["clone"]:
        rows.append(("before preferences", summary["clone"]))
    rows += [(result["algo"], summary["last"]), ("best on the way", summary["best"])]
    return [(name, evaluation(event)) for name, event in rows]


def evaluation(event: dict[str, Any]) -> Evaluation:
    """The evaluation in an event of `metrics.jsonl` or in a `result.json`."""
    return Evaluation(**{k: v for k, v in event.items() if k in Evaluation.__dataclass_fields__})
