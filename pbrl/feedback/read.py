"""Reads labels from the store: nothing else makes any."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pbrl.data.table import Table
from pbrl.feedback.kinds import KINDS, SKIP, TIE, Example, Reading
from pbrl.feedback.labels import Labels, Selection
from pbrl.feedback.questions import Question, check_value
from pbrl.feedback.rankings import rank
from pbrl.feedback.raters import dawid_skene
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import Clip, UserError

Answered = tuple[Answer, Question]


def stored_kind(query: Query, selection: Selection, by_comparisons: bool) -> str:
    """The kind of the questions in the store that a query is about."""
    if selection.attribute:
        return "attributes"
    return "pair" if by_comparisons else query.kind


def read(
    store: Store,
    table: Table,
    query: Query,
    selection: Selection,
    *,
    questions: Sequence[str] | None = None,
    until: int | None = None,
    by_comparisons: bool = False,
) -> tuple[Labels, list[Answered]]:
    """The labels that a query's answers give, and the answers with their questions: skipped and unusable ones too.

    Answers are those to `questions` (ids; None: all whose clips are in the table), that stand, or stood at the event
    number `until`. `by_comparisons`: rankings were asked for by pairs.
    """
    kind = stored_kind(query, selection, by_comparisons)
    found = read_answers(store, table, kind, query.length, rater=selection.rater, questions=questions, until=until)
    answers, left_out = sort_out(found, table)
    first = set(list(dict.fromkeys(answer.question for answer, _ in answers))[: selection.count])
    answers = [(answer, question) for answer, question in answers if answer.question in first]
    if by_comparisons:
        labels = _labels(rank(answers, table, query.per_list), query)
    elif selection.aggregate:
        labels = aggregate(answers, table, query, selection.model)
    elif query.kind == "attributes":
        labels = _labels(find_attributes(answers, table, query.attributes or ()), query)
    else:
        labels = _labels(find_examples(answers, table, query, selection), query)
    return labels, [*answers, *left_out]


def find_examples(
    answers: Sequence[Answered], table: Table, query: Query, selection: Selection
) -> list[tuple[Answer, int, list[int], float]]:
    """What usable answers say of segments: (answer, number of its list, rows where its segments begin, label)."""
    reading = Reading(query.span, selection.attribute, selection.strengths)
    found: list[tuple[Answer, int, list[int], float]] = []
    groups: dict[str, int] = {}
    for answer, question in answers:
        if answer.value is None or answer.value.outcome == SKIP:
            continue
        group = groups.setdefault(answer.uid, len(groups)) if query.kind == "ranking" else 0
        for example in KINDS[question.kind].examples(answer.value, reading, question.length):
            found.append((answer, group, rows_of(question.clips, example, table), example.label))
    return found


def find_attributes(
    answers: Sequence[Answered], table: Table, names: Sequence[str]
) -> list[tuple[Answer, int, list[int], list[float]]]:
    """What usable answers say of pairs, as above; the label is P(the second has more) of each of `names`.

    It is NaN where an answer says nothing of that attribute; answers that say nothing of any are left out.
    """
    found = []
    for answer, question in answers:
        said = {name: label for name, label in attributes_of(answer).items() if label is not None}
        label = [said.get(name, math.nan) for name in names]
        if not all(map(math.isnan, label)):
            found.append((answer, 0, rows_of(question.clips, Example((0, 1), 0.0), table), label))
    return found


def attributes_of(answer: Answer) -> dict[str, float | None]:
    """P(the second has more) of each attribute that an answer is about; None where the rater could not tell."""
    value = answer.value
    return (value.detail or {}).get("attributes", {}) if value is not None and value.outcome != SKIP else {}


def check_attributes(labels: Labels, answers: Sequence[Answered]) -> None:
    """Raises UserError where no answer says anything of one of the attributes that are to be learnt."""
    names = labels.attributes if labels.kind == "attributes" else ()
    missing = [name for i, name in enumerate(names) if np.isnan(labels.value[:, i]).all()]
    if not missing:
        return
    said = {name for answer, _ in answers for name, label in attributes_of(answer).items() if label is not None}
    raise UserError(
        f"no answer says which clip has more {', '.join(missing)}; there are answers about "
        f"{', '.join(sorted(said)) or 'no attribute'}: choose query.attributes among these, or ask for more"
    )


def read_answers(
    store: Store,
    table: Table,
    kind: str,
    length: int,
    *,
    rater: str | None = None,
    questions: Sequence[str] | None = None,
    until: int | None = None,
) -> list[Answered]:
    """Answers with their questions, of one kind and length, asked to learn from, about episodes of the table alone.

    Not all need be usable: see `sort_out`.
    """
    about = {"kind": kind, "length": length, "purpose": "learn"}
    answers = store.answers(questions, rater=rater, until=until, **about)
    asked = store.questions(list({answer.question for answer in answers}))
    mine = set(table.ids)
    known = {name: question for name, question in asked.items() if all(clip.episode in mine for clip in question.clips)}
    return [(answer, known[answer.question]) for answer in answers if answer.question in known]


def find_fault(answer: Answer, question: Question, table: Table) -> str | None:
    """Why nothing can be learnt from an answer about episodes of the table; None where it can."""
    if answer.value is None:
        return "it has no value"
    if {clip.length for clip in question.clips} != {question.length}:
        return "its clips are not equally long"
    if question.kind == "triplet" and len(set(question.clips)) < 3:
        return "two of its three clips are the same"
    beyond = next((clip for clip in question.clips if not table.has_clip(clip)), None)
    if beyond is not None:
        return f"steps {beyond.first} to {beyond.first + beyond.length} lie beyond episode {beyond.episode}"
    try:
        check_value(question, answer.value)
    except UserError as error:
        return str(error)
    return None


def sort_out(answers: Sequence[Answered], table: Table) -> tuple[list[Answered], list[Answered]]:
    """Answers that fit their questions, whose clips fit the table; and the others, as stores of older versions have."""
    faults = [find_fault(answer, question, table) for answer, question in answers]
    usable = [one for one, fault in zip(answers, faults, strict=True) if fault is None]
    return usable, [one for one, fault in zip(answers, faults, strict=True) if fault is not None]


def count(answers: Sequence[Answered], table: Table, asked: int) -> dict[str, int]:
    """How many of `asked` questions were answered, of them ties, and skips; `left_out` where some cannot be used."""
    usable, left_out = sort_out(answers, table)
    outcomes = [answer.value.outcome for answer, _ in usable if answer.value is not None]
    skipped = outcomes.count(SKIP)
    found = {"asked": asked, "answered": len(outcomes) - skipped, "ties": outcomes.count(TIE), "skipped": skipped}
    return {**found, "left_out": len(left_out)} if left_out else found


def describe_left_out(answers: Sequence[Answered], table: Table) -> str | None:
    """A sentence about the answers that cannot be used, and the fault of the first; None where there are none."""
    left_out = sort_out(answers, table)[1]
    if not left_out:
        return None
    answer, question = left_out[0]
    fault = find_fault(answer, question, table)
    return f"{len(left_out)} answers are left out: that of {answer.rater} to question {answer.question}, as {fault}"


def count_held(store: Store, table: Table) -> Counter[tuple[str, int]]:
    """How many answers there are about clips of a table, by kind of question and steps of the clips."""
    answers = store.answers()
    asked = store.questions(list({answer.question for answer in answers}))
    mine = {name for name, question in asked.items() if all(map(table.has_clip, question.clips))}
    found = [asked[answer.question] for answer in answers if answer.question in mine]
    return Counter((question.kind, question.length) for question in found)


def rows_of(clips: Sequence[Clip], example: Example, table: Table) -> list[int]:
    """The rows at which an example's segments begin."""
    return [table.row(clips[place]) + example.first for place in example.clips]


def aggregate(answers: Sequence[Answered], table: Table, query: Query, model: str | None = None) -> Labels:
    """One label for each pair, by Dawid and Skene's model of which rater is right about what.

    A probability that nobody else has judged is kept. With the name of a `model` whose answers others check, so is any
    label of one rater alone, which tells nothing of who is right: only what several have answered is aggregated.
    """
    given = Counter(a.question for a, _ in answers if a.value is not None and a.value.label is not None)
    alone = {a.question: a.value.label for a, _ in answers if a.value is not None and a.value.label is not None
             and given[a.question] == 1 and (model or a.value.label not in (0.0, 0.5, 1.0))}  # fmt: skip
    counted = answers if model is None else [one for one in answers if one[0].question not in alone]
    label = dawid_skene(counted, model=model).label | alone
    first: dict[str, tuple[Answer, Question]] = {}
    for answer, question in answers:
        if answer.question in label:
            first.setdefault(answer.question, (answer, question))
    found = [
        (answer, 0, rows_of(question.clips, Example((0, 1), 0.0), table), label[name])
        for name, (answer, question) in first.items()
    ]
    labels = _labels(found, query)
    return labels._replace(rater=np.full(labels.size, -1), confidence=np.ones(labels.size))


def _labels(found: Sequence[tuple[Answer, int, list[int], Any]], query: Query) -> Labels:
    width, names = {"pair": 2, "attributes": 2, "triplet": 3}.get(query.kind, 1), tuple(query.attributes or ())
    shape = [len(names)] if query.kind == "attributes" else []
    raters = tuple(dict.fromkeys(answer.rater for answer, *_ in found))
    place = {rater: i for i, rater in enumerate(raters)}
    return Labels(
        starts=np.array([rows for _, _, rows, _ in found], np.int64).reshape(-1, width),
        value=np.array([value for *_, value in found], np.float64).reshape(-1, *shape),
        group=np.array([group for _, group, _, _ in found], np.int64),
        rater=np.array([place[answer.rater] for answer, *_ in found], np.int64),
        confidence=np.array([answer.confidence for answer, *_ in found], np.float64),
        question=np.array([answer.question for answer, *_ in found], object),
        raters=raters,
        length=query.learnt_length,
        kind=query.kind,
        attributes=names,
    )
