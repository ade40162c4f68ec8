"""A rater's stored answers as a judge: a person's, a script's, a vision-language model's.

Pairs, rankings (every pair of one counts, all as one question) and ratings. What one vision-language model answered
when it was asked in both orders lies in its answers' `detail["vlm"]["orders"]`.
"""

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np

from pbrl.feedback.kinds import KINDS, SKIP, Reading
from pbrl.feedback.limits import is_number
from pbrl.feedback.questions import Question, check_value, is_permutation
from pbrl.feedback.store.address import sqlite_file
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.datasets import adopt, adopt_recordings
from pbrl.feedback.store.store import Store
from pbrl.judge.evidence import Answers, Clips, Ratings, Source
from pbrl.judge.material import Material
from pbrl.types import Clip, UserError

Answered = tuple[Answer, Question]
JUDGED = ("pair", "ranking", "rating")


def load_answers(url: str, rater: str | None, material: Material, *, kind: str | None, name: str = "") -> Source:
    """What a rater answered about a data set: of one `kind`, or, if that is None, of the one with most answers.

    `rater` None is the one called `name`, or else the only one that answered. Raises UserError.
    """
    file = sqlite_file(url)
    if file and not file.exists():
        raise UserError(f"store={url}: there is no file {file} to read answers from")
    store = Store(url)
    adopt(store, material.content_hash, material.ids, [len(episode.action) for episode in material.episodes])
    adopt_recordings(store, material.episodes)
    found = _read(store, material)
    rater = _choose_rater(store, found, rater, name)
    own = [one for one in found if one[0].rater == rater]
    kinds = Counter(question.kind for _, question in own)
    chosen = kind or next((name for name, _ in kinds.most_common() if name in JUDGED), None)
    if chosen not in JUDGED or not kinds[chosen]:
        held = ", ".join(f"{n} × {name}" for name, n in kinds.items())
        raise UserError(
            f"{rater} has answered {held}: what can be judged are {', '.join(JUDGED)}; choose one by kind=…"
        )
    usable = [one for one in own if one[1].kind == chosen and _is_usable(*one, material)]
    if not usable:
        raise UserError(f"no answer by {rater} to a {chosen} fits its question: choose another rater=… or kind=…")
    about = {"store": store.address, "rater": rater, "kind": chosen, "answers": len(usable)}
    left_out = sum(question.kind == chosen for _, question in own) - len(usable)
    about |= {"left_out": left_out} if left_out else {}
    if chosen == "rating":
        return Source(ratings=_ratings(usable, material), about=about)
    return Source(answers=_pairs(usable, material), about=about)


def _read(store: Store, material: Material) -> list[Answered]:
    """All answers, asked to learn from, about episodes of the data set alone, with their questions."""
    answers = store.answers(purpose="learn")
    asked = store.questions(list({answer.question for answer in answers}))
    about = {name: q for name, q in asked.items() if all(clip.episode in material.place for clip in q.clips)}
    return [(answer, about[answer.question]) for answer in answers if answer.question in about]


def _choose_rater(store: Store, found: list[Answered], rater: str | None, name: str) -> str:
    raters = list(dict.fromkeys(answer.rater for answer, _ in found))
    if not raters:
        held = len(store.answers())
        about = f"{held} answers, all about episodes that this data set does not have" if held else "no answers"
        raise UserError(f"{store.address} holds {about}: give the data set that was asked about, with env=… data=…")
    if rater is None:
        rater = name if name in raters else raters[0] if len(raters) == 1 else None
    if rater is None:
        raise UserError(f"{store.address} holds answers by {', '.join(raters)}: choose one of them with rater=…")
    if rater not in raters:
        raise UserError(f"{store.address} holds no answers by {rater} about this data set, but by {', '.join(raters)}")
    return rater


def _is_usable(answer: Answer, question: Question, material: Material) -> bool:
    """Whether an answer fits its question, whose clips are equally long and lie in their episodes."""
    if answer.value is None or len({clip.length for clip in question.clips}) != 1:
        return False
    if not all(map(material.has_clip, question.clips)):
        return False
    try:
        check_value(question, answer.value)
    except UserError:
        return False
    return True


def _pairs(usable: list[Answered], material: Material) -> Answers:
    """Pairs as they were answered, and every pair of a ranking: one clip above another, or beside it."""
    clips: list[tuple[Clip, Clip]] = []
    preferred: list[float] = []
    number: list[int] = []
    shown: list[int] = []
    orders: list[tuple[float, float]] = []
    for i, (answer, question) in enumerate(usable):
        assert answer.value is not None
        for a, b, label in _comparisons(answer, question):
            clips.append((question.clips[a], question.clips[b]))
            preferred.append(label)
            number.append(i)
            shown.append(_shown_first(answer, question))
            orders.append(_orders(answer))
    return Answers(
        _clips(clips, material), np.array(preferred), np.array(number), np.array(shown), np.array(orders, np.float64)
    )


def _comparisons(answer: Answer, question: Question) -> list[tuple[int, int, float]]:
    """(first, second, P(second preferred)) by places in the question; NaN where it was skipped."""
    assert answer.value is not None
    places = list(combinations(range(len(question.clips)), 2))
    if answer.value.outcome == SKIP:
        return [(a, b, np.nan) for a, b in places]
    found = KINDS[question.kind].examples(answer.value, Reading(), question.length)
    if question.kind == "pair":
        return [(0, 1, found[0].label)]
    rank = {example.clips[0]: example.label for example in found}
    return [(a, b, 0.5 + 0.5 * float(np.sign(rank[b] - rank[a]))) for a, b in places]


def _shown_first(answer: Answer, question: Question) -> int:
    """Which clip of a pair was shown first, 0 or 1; -1 where that is unknown."""
    order = (answer.shown or {}).get("order")
    return order[0] if question.kind == "pair" and is_permutation(order, 2) else -1  # type: ignore[index]


def _orders(answer: Answer) -> tuple[float, float]:
    """P(second preferred) as asked and with the clips swapped, of a model that was asked both."""
    detail: Any = (answer.value.detail if answer.value else None) or {}
    own = detail.get("vlm")
    found = own.get("orders") if isinstance(own, dict) else None
    if isinstance(found, list) and len(found) == 2 and all(is_number(p, 0, 1) for p in found):
        return found[0], found[1]
    return np.nan, np.nan


def _ratings(usable: list[Answered], material: Material) -> Ratings:
    values = [np.nan if (v := answer.value) is None or v.label is None else v.label for answer, _ in usable]
    return Ratings(_clips([question.clips for _, question in usable], material), np.array(values, np.float64))


def _clips(clips: list[Any], material: Material) -> Clips:
    """Clips [Q][k] by the places of their episodes."""
    episode = [[material.place[clip.episode] for clip in own] for own in clips]
    first = [[clip.first for clip in own] for own in clips]
    return Clips(np.array(episode), np.array(first), np.array([own[0].length for own in clips]))
