"""The raters of a run and their answers, read from its store of answers."""

from statistics import median
from typing import Any

from pbrl.feedback.store.address import whole_address
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.run.outcome import Outcome
from pbrl.types import UserError


def rater_rows(run: Outcome) -> list[dict[str, Any]]:
    """For each rater: how many answers stand, ties and skips among them, and the median seconds that one took.

    Of the store in the run's folder; else, of the one that its config names, those about the episodes that the run
    began with (all of them, where that is not known). No rows where the store cannot be read.
    """
    own = run.folder / "answers.sqlite"
    url = (run.config["store"] and whole_address(run.config["store"])) or (f"sqlite:///{own}" if own.exists() else None)
    if url is None:
        return []
    try:
        store, dataset = Store(url), run.start.get("dataset") if run.config["store"] else None
        answers = store.answers(dataset=dataset if store.has_dataset(dataset) else None)
    except UserError:
        return []
    return [
        _rater(name, [answer for answer in answers if answer.rater == name])
        for name in dict.fromkeys(answer.rater for answer in answers)
    ]


def _rater(name: str, answers: list[Answer]) -> dict[str, Any]:
    seconds = [answer.seconds for answer in answers if answer.seconds]
    outcomes = [answer.value.outcome for answer in answers if answer.value]
    return {
        "name": name,
        "answers": len(answers),
        "ties": outcomes.count("tie"),
        "skips": outcomes.count("skip"),
        "seconds": median(seconds) if seconds else None,
    }
