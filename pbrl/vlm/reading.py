"""What a reply says: its words without what the model thought first, choices in a line or in JSON, probabilities of
words from the log-probabilities of tokens. A reply that does not say what was asked for is Unreadable, never guessed.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pbrl.vlm.messages import Reply, Token

THOUGHT_ENDS = re.compile(r"</think(?:ing)?>|◁/think▷|\[/THINK\]|<\|channel\|>final<\|message\|>")
THOUGHT_BEGINS = re.compile(r"<think(?:ing)?>|◁think▷|\[THINK\]|<\|channel\|>(?:analysis|commentary)")
TAGS = re.compile(r"</?\w+>|<\|[^|<>]*\|>|\\boxed|\\text")
MARKUP = " \t\r\n*_`\"'“”.,:;!()[]{}#$▁ĠĊ|"  # around an answer; no minus: -1 is not 1
LEAD = re.compile(
    r"^(?:[-•]\s+)?(?:(?:so|the|my|final|overall)[\s:,]+)*"
    r"(?:(?:answer|choice|verdict|result|rating|level|score)[\s:*_=]*(?:is\b[\s:*_]*)?)?"
    r"(?:(?:the|case|picture|image|clip|option|level)\s*[#:]?\s*)*"
)
TRAIL = re.compile(r"\s+(?:one|case|picture|image|clip|option)$")
BEFORE_ANSWER = set(
    re.findall(r"\w+", "so the my final answer choice verdict rating level score is case picture image")
)
FIELD = r"[\"']{name}[\"']\s*:\s*(?:\"([^\"]*)\"|'([^']*)'|([-+.\w]+|\?)(?=\s*(?:[,}}\]\n%]|\Z)))"
REST = re.compile(r"(?:\s*/\s*\d)?[\W_]*(?:one|case|picture|image|clip|option)?[\W_]*", re.I)  # of an answer's line
LEAST_MASS = 0.01  # of all the words that answer, together, where they are read


class Unreadable(Exception):
    """A reply that does not say what was asked for: to be asked again."""


def read_words(reply: Reply) -> str:
    """A reply's words after what the model thought first; nothing where it did not come to an end of that."""
    ends = list(THOUGHT_ENDS.finditer(reply.text))
    words = reply.text[ends[-1].end() :] if ends else reply.text
    begun = THOUGHT_BEGINS.search(words)
    return (words[: begun.start()] if begun else words).strip(" \t")


def whole_lines(reply: Reply) -> list[str]:
    """The lines of a reply that are not blank, without fences; of one that was cut off, without the line that was."""
    lines = read_words(reply).split("\n")
    if reply.finish == "length":
        lines = lines[:-1]
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("```")]


def strip_line(line: str) -> str:
    """A line in lower case without markup, and without words such as "the answer is"."""
    bare = TAGS.sub("", line).strip(MARKUP).lower()
    return TRAIL.sub("", bare[LEAD.match(bare).end() :].strip(MARKUP))  # type: ignore[union-attr]


def read_choice(reply: Reply, choices: Mapping[str, Any], *, names: Sequence[str], first: bool = True) -> Any:
    """What a reply chooses: in a field of JSON that has one of `names`, else in its last line, or its first.

    JSON may be in a fence, in a tool's arguments, or cut off after the field. Raises Unreadable where there is no
    choice, or two that differ. With `first` false only the last line counts.
    """
    fields = find_fields(read_words(reply), names)
    lines = whole_lines(reply)
    said = fields or ([lines[0], lines[-1]] if lines and first else lines[-1:])
    found = [choices[bare] for bare in map(strip_line, said) if bare in choices]
    if not found or (fields and len(found) < len(fields)) or any(value != found[0] for value in found):
        raise Unreadable(reply.text[:200])
    return found[0]


def find_fields(words: str, names: Iterable[str]) -> list[str]:
    """The values of fields with one of these names in JSON, whole or cut off."""
    return [
        next(group for group in match.groups() if group is not None)
        for name in names
        for match in re.finditer(FIELD.format(name=name), words, re.I)
    ]


# Log-probabilities


def probabilities(reply: Reply, spellings: Mapping[str, Any]) -> dict[Any, float] | None:
    """How probable each meaning is where the model answers, summed over its spellings; None where `find_place` is."""
    place = find_place(reply, spellings)
    return None if place is None else _masses(place, spellings)


def find_place(reply: Reply, spellings: Mapping[str, Any], *, is_alone: bool = True) -> Token | None:
    """The token where a model answers: the first that is one of `spellings`, lower-case words, and what each means.

    Before it stand only white space, markup and words such as "answer", and with `is_alone` nothing else follows in its
    line: "First, I look" answers nothing. Where there is none such, the first token in whose place the spellings have
    LEAST_MASS together; None where they nowhere do.
    """
    best, tokens = None, answer_tokens(reply)
    for i, token in enumerate(tokens):
        word, mass = bare_token(token.text), sum(_masses(token, spellings).values())
        if mass >= LEAST_MASS and word in spellings:
            return None if is_alone and _goes_on(tokens, i) else token
        if best is None and mass >= LEAST_MASS:
            best = token
        if word and word not in BEFORE_ANSWER:
            break
    return best


def _goes_on(tokens: Sequence[Token], place: int) -> bool:
    """Whether more words follow in the line of a token, but for what is left of JSON, or "/5" after a rating."""
    before = "".join(token.text for token in tokens[: place + 1])
    rest = "".join(token.text for token in tokens[place + 1 :]) if not before.endswith("\n") else ""
    line = TAGS.sub("", rest).split("\n")[0]
    if "{" in before and re.match(r"\s*[\"']?\s*[,}]", line):
        return False
    return REST.fullmatch(line) is None


def alternatives(token: Token) -> list[tuple[str, float]]:
    """All tokens that are listed for a place, the one that was chosen among them, with log-probabilities."""
    listed = list(token.top)
    return listed if any(text == token.text for text, _ in listed) else [*listed, (token.text, token.logprob)]


def bare_token(text: str) -> str:
    """A token in lower case, without markup; special tokens are empty."""
    return TAGS.sub("", text).strip(MARKUP).lower()


def _masses(token: Token, spellings: Mapping[str, Any]) -> dict[Any, float]:
    found = dict.fromkeys(spellings.values(), 0.0)
    for text, logprob in alternatives(token):
        if bare_token(text) in spellings:
            found[spellings[bare_token(text)]] += math.exp(min(logprob, 0.0))
    return found


def answer_tokens(reply: Reply) -> tuple[Token, ...]:
    """The tokens after what the model thought first, which some servers list and leave out of the words."""
    tokens = reply.tokens or ()
    words, joined = read_words(reply).strip(), "".join(token.text for token in tokens)
    if not words:
        return ()
    begin, at = max(joined.rfind(words), 0), 0
    ends = list(THOUGHT_ENDS.finditer(joined))
    begin = max(begin, ends[-1].end() if ends else 0)
    for i, token in enumerate(tokens):
        at += len(token.text)
        if at > begin:
            return tokens[i:]
    return ()
