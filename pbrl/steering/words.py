"""From plain English to targets: "a bit slower, but lift your feet", by templates.

A sentence is cut into clauses, and each clause is about one attribute: it says what change, level or end is wanted of
it. A sentence of which any word is unknown changes nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pbrl.models.planner import Targets
from pbrl.steering.vocabulary import HIGH_LEVEL, LEVEL, MIDDLE, SOME, SUBJECTS, Word, subjects_of, vocabulary
from pbrl.types import UserError

SEPARATORS = re.compile(r"[,;!?]|\.(?!\d)|\b(?:and|but|or|while|yet|also|plus|with)\b")
AS_POSSIBLE = re.compile(r"\bas (.+?) as (?:possible|you can|it can|can be|it gets)\b")
TOKEN = re.compile(r"\d*\.?\d+%?|[a-z']+|[^\s\w]+|\w+")
NUMBER = re.compile(r"(\d*\.?\d+)(%?)")
LONGEST = 4  # words of a phrase


class Clause(NamedTuple):
    """A clause, and the words and phrases in it."""

    text: str
    words: list[Word]
    unknown: list[str]

    def of(self, *kinds: str) -> list[Word]:
        """Its words of these kinds."""
        return [word for word in self.words if word.kind in kinds]


class Move(NamedTuple):
    """What is wanted: a strength, or one that is so much larger; None is any. `is_same`: what it was."""

    strength: float | None = None
    more: float | None = None
    is_same: bool = False

    def from_(self, present: float | None, sign: int) -> float | None:
        """The target, of an attribute of which less is wanted where more is said, if the sign is -1."""
        if self.is_same:
            return present
        if self.more is not None:
            start = MIDDLE if present is None else present
            return round(min(max(start + sign * self.more, 0.0), 1.0), 6)
        return self.strength if self.strength is None or sign > 0 else round(1 - self.strength, 6)


def read_sentence(sentence: str, attributes: Sequence[str], present: Targets) -> dict[str, float | None]:
    """The targets that a sentence changes. Changes are relative to the `present` ones, or to the middle.

    Raises UserError for words that are unknown, an attribute that is not among `attributes`, and what is ambiguous.
    """
    clauses = cut(sentence, vocabulary(attributes))
    unknown = [word for clause in clauses for word in clause.unknown]
    if unknown:
        raise UserError(f"{_quote(unknown)}: not understood. {explain_words(attributes)}")
    found: dict[str, float | None] = {}
    move: Move | None = None
    for clause in clauses:
        subject, sign = subject_of(clause)
        move = move_of(clause) or move
        name, own = attribute_of(subject, clause, attributes)
        if move is None:
            raise UserError(f'"{clause.text}": more or less of {name}? Say "more {name}", "less {name}", "any {name}"')
        if name in found:
            raise UserError(f'"{sentence}" speaks of {name} twice: say it once')
        found[name] = move.from_(present.get(name), sign * own)
    if not found:
        raise UserError(f'"{sentence}" asks for nothing. {explain_words(attributes)}')
    return found


def cut(sentence: str, known: Mapping[str, Word]) -> list[Clause]:
    """A sentence's clauses; those of mere fillers are left out."""
    text = re.sub(r"(\d) ?(?:percent|per cent|%)", r"\1%", sentence.lower().replace("’", "'"))
    text = re.sub(r"(?<=[a-z])[-_](?=[a-z])|[:=]", " ", text)
    text = AS_POSSIBLE.sub(lambda found: "most " + re.sub(r"\b(and|but)\b", r"\1 most", found[1]), text)
    clauses = [_recognize(part, known) for part in SEPARATORS.split(text)]
    return [one for one in clauses if one.unknown or any(word.kind not in ("filler", "to") for word in one.words)]


def _recognize(text: str, known: Mapping[str, Word]) -> Clause:
    tokens, clause, at = TOKEN.findall(text), Clause(" ".join(text.split()), [], []), 0
    while at < len(tokens):
        lengths = range(min(LONGEST, len(tokens) - at), 0, -1)
        length = next((n for n in lengths if " ".join(tokens[at : at + n]) in known), 1)
        phrase = " ".join(tokens[at : at + length])
        number = NUMBER.fullmatch(phrase)
        if number:
            clause.words.append(Word("number", amount=float(number[1]) / (100 if number[2] else 1)))
        elif phrase in known:
            clause.words.append(known[phrase])
        else:
            clause.unknown.append(phrase)
        at += length
    return clause


def subject_of(clause: Clause) -> tuple[str, int]:
    """What a clause is about, and whether more of what it names is less of it (-1). Raises UserError."""
    nouns = clause.of("noun")
    own = [word for word in clause.of("change", "level", "end") if word.subject and not (nouns and word.is_general)]
    subjects = list(dict.fromkeys(word.subject for word in (*nouns, *own)))
    if len(subjects) > 1:
        raise UserError(f'"{clause.text}" speaks of {" and ".join(subjects)} at once: put a comma between them')
    if not subjects:
        raise UserError(f'"{clause.text}": of what? Name an attribute, as in "more speed"')
    return subjects[0], nouns[0].sign if nouns else 1


def attribute_of(subject: str, clause: Clause, attributes: Sequence[str]) -> tuple[str, int]:
    """The planner's attribute that is meant, and its sign. Raises UserError where there is none, or several."""
    meant = {name: sign for name, (about, sign) in subjects_of(attributes).items() if about == subject}
    if not meant:
        known = ", ".join(attributes)
        raise UserError(f'"{clause.text}" is about {subject}, which this planner has not learnt: it knows {known}')
    if len(meant) > 1:
        raise UserError(f'"{clause.text}" may be about {" or ".join(meant)}: set the one that is meant, as a number')
    return next(iter(meant.items()))


def move_of(clause: Clause) -> Move | None:
    """What is wanted of a clause's attribute; None where it only names one. Raises UserError."""
    if clause.of("not") and (not clause.of("level") or clause.of("more", "most", "any", "number", "fraction")):
        raise UserError(f'"{clause.text}": say what is wanted, and not what is not, as in "slower" or "same speed"')
    if clause.of("any"):
        return Move()
    if clause.of("number", "fraction"):
        return _numbered(clause)
    sign = _sign(clause)
    if clause.of("most", "end"):
        return Move(float(sign > 0))
    if clause.of("level") and clause.of("not", "too") and not clause.of("more"):
        return Move(more=-sign * _size(clause))
    if clause.of("change", "more"):
        return Move(more=sign * _size(clause))
    if clause.of("level"):
        if clause.of("degree"):
            raise UserError(
                f'"{clause.text}": more or less than now? Compare, as in "a bit slower" or "a bit too fast"'
            )
        level = HIGH_LEVEL if clause.of("very") else LEVEL
        return Move(level if sign > 0 else round(1 - level, 6))
    return Move(is_same=True) if clause.of("same") else None


def _numbered(clause: Clause) -> Move:
    """A strength, or a change by a number where the clause says "by"."""
    numbers = clause.of("number", "fraction")
    if len(numbers) > 1 or not 0 <= numbers[0].amount <= 1:
        raise UserError(f'"{clause.text}": a strength is one number from 0 to 1, or from 0% to 100%')
    amount, changes, by = numbers[0].amount, clause.of("change", "more"), clause.of("by")
    if changes and by and numbers[0].kind == "number":
        return Move(more=_sign(clause) * amount)
    if by or (changes and not clause.of("to")):
        raise UserError(f'"{clause.text}": by that, or to that? Say "slower by 0.1", or "speed 0.3"')
    return Move(amount)


def _sign(clause: Clause) -> int:
    """Whether more or less is wanted: adjectives and verbs agree; "less" and "least" turn them round."""
    signs = {word.sign for word in clause.of("change", "level", "end")}
    if len(signs) > 1:
        raise UserError(f'"{clause.text}": more or less? It says both')
    turns = [word.sign for word in clause.of("more", "most")]
    return next(iter(signs), 1) * (-1 if turns.count(-1) % 2 else 1)


def _size(clause: Clause) -> float:
    return next((word.amount for word in reversed(clause.of("degree"))), SOME)


def explain_words(attributes: Sequence[str]) -> str:
    """A sentence: the words for these attributes, and those for how much."""
    parts = []
    for name, (about, _) in subjects_of(attributes).items():
        subject = SUBJECTS.get(about)
        examples = [] if subject is None else [one.split(",")[0] for one in (subject.more, subject.less) if one]
        if subject is not None and not examples:
            examples = [one.split(",")[0] for one in (subject.raising, subject.lowering)]
        parts.append(f"{name} ({', '.join(examples or [f'more {name}', f'less {name}'])})")
    how = "slower, much slower, a bit slower, very slow, as slow as possible, medium speed, speed 0.3, any speed"
    return f"It understands words for {', '.join(parts)}, and how much as in: {how}"


def _quote(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in dict.fromkeys(words))
