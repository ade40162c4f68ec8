"""What a simulated judge says of pictures whose worth it knows, and how it errs: no model, but a formula.

Which of two cases is the better one it gets wrong with the chance

    P(wrong) = error + (1/2 - error) exp(-gap / closeness)        or `error` itself, with closeness 0,

where `gap` is the difference of their values: a coin where they are alike, `error` where they are far apart. A mistake
belongs to the two cases and is the same in both orders. Then, with the chance 2 `first`, the second case is not named
but the first one: over balanced questions the first is named in 50 + 100 `first` % of them. A wrong level, percentage
or truth is mirrored in the range from `low` to `high`. All chance is a hash of seed and pictures, so replies repeat.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CASES = re.compile(r"case ([12])", re.I)
SENTENCES = {0.0: "The task is nearer to being done in case 1.", 1.0: "The task is nearer to being done in case 2.",
             0.5: "I see no difference that matters for the task."}  # fmt: skip
SIGNS = {0.0: "1", 1.0: "2", 0.5: "0"}
UNREADABLE = "Both pictures show a robot arm at a table; more context would help."
LEVELS = 5


@dataclass(frozen=True)
class Profile:
    """How it errs. `temperature`, `tie` and `closeness` are in the unit of the true reward; shares in [0, 1]."""

    seed: int = 0
    error: float = 0.0  # P(wrong) of two cases that are far apart
    closeness: float = 0.0  # how far apart halves the way from a coin to `error`, by e; 0: always `error`
    temperature: float = 1.0  # where log-probabilities are asked for: P(second) = sigmoid(gap / temperature)
    first: float = 0.0  # how much more often than in half of all questions the first case is named
    tie: float = 0.0  # the gap below which two cases are called equal
    refuse: float = 0.0  # share of requests that are refused
    malformed: float = 0.0  # share of replies that do not say what was asked for
    low: float = 0.0  # the value of level 1, of 0 % and of False
    high: float = 10.0  # the value of level 5, of 100 % and of True
    latency_s: float = 0.0  # of each reply
    slow: float = 0.0  # share of requests that take slow_s instead
    slow_s: float = 5.0
    fail: float = 0.0  # share of requests that get 500 or 429 when they come first, and a reply when they come again
    drop: float = 0.0  # share of requests whose connection closes in mid-reply when they come first

    def chance(self, what: str, *of: str) -> float:
        """A number in [0, 1) that is always the same for the same things."""
        digest = hashlib.sha256("\n".join([str(self.seed), what, *of]).encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


class Said(NamedTuple):
    """A reply: its words, the log-probabilities of what could stand for its one token, and a refusal."""

    text: str
    top: Mapping[str, float] | None = None
    refusal: str | None = None


class Part(NamedTuple):
    """A text, or a picture by its SHA-256."""

    text: str = ""
    picture: str = ""


def is_wrong(profile: Profile, gap: float, *pictures: str) -> bool:
    """Whether it takes these for the opposite."""
    alike = math.exp(-gap / profile.closeness) if profile.closeness else 0.0
    return profile.chance("wrong", *pictures) < profile.error + (0.5 - profile.error) * alike


def prefer(profile: Profile, cases: Sequence[Sequence[str]], values: Sequence[float]) -> float:
    """P(second) of two cases, each its pictures, with their values: 0.5 or beyond it where the second seems better."""
    gap = values[1] - values[0]
    if abs(gap) <= profile.tie:
        return 0.5
    unordered = sorted("".join(case) for case in cases)
    seen = -gap if is_wrong(profile, abs(gap), *unordered) else gap
    return 1 / (1 + math.exp(-max(min(seen / profile.temperature, 50.0), -50.0)))


def choose(profile: Profile, cases: Sequence[Sequence[str]], values: Sequence[float]) -> float:
    """In words: 0 for the first case, 1 for the second, 0.5 for equal."""
    p = prefer(profile, cases, values)
    if p == 0.5:
        return p
    named_first = profile.chance("first", *("".join(case) for case in cases)) < 2 * profile.first
    return 0.0 if p < 0.5 or named_first else 1.0


def share_of(profile: Profile, value: float, *pictures: str) -> float:
    """How far a value is from `low` to `high`, in [0, 1]."""
    share = min(max((value - profile.low) / (profile.high - profile.low), 0.0), 1.0)
    return 1 - share if is_wrong(profile, math.inf, *pictures) else share


def respond(profile: Profile, parts: Sequence[Part], values: Mapping[str, float], *, temperature: float = 0.0) -> Said:
    """The reply to a message. Raises ValueError where it is of no judge that is known."""
    words, shown = "\n".join(part.text for part in parts), [part.picture for part in parts if part.picture]
    about = [*shown, hashlib.sha256(words.encode()).hexdigest(), str(temperature)]
    if profile.chance("refuse", *about) < profile.refuse:
        return Said("", refusal="I cannot help with this request.")
    if profile.chance("malformed", *about) < profile.malformed:
        return Said(UNREADABLE if profile.chance("empty", *about) < 0.5 else "")
    if not shown and "What they wrote" in words:
        said = [value for value, sentence in SENTENCES.items() if sentence in words]
        return Said(SIGNS[said[0]] if len(said) == 1 else "?")
    if not shown:
        raise ValueError("no picture, and nothing that was written of pictures")
    for marker, answer in ((r"Frame 1: \d+%", _progress), (r"True or False", _truth), (r"digit of the level", _level),
                           (r"Case 1:", _pair)):  # fmt: skip
        if re.search(marker, words):
            return answer(profile, parts, values)
    raise ValueError("a prompt of no judge that the simulated judge knows")


def _pair(profile: Profile, parts: Sequence[Part], values: Mapping[str, float]) -> Said:
    cases: dict[str, list[str]] = {"1": [], "2": []}
    at = ""
    for part in parts:
        at = (CASES.findall(part.text) or [at])[-1]
        if part.picture:
            cases[at].append(part.picture)
    both = list(cases.values())
    mean = [sum(values[picture] for picture in case) / len(case) for case in both]
    choice, words = choose(profile, both, mean), "\n".join(part.text for part in parts)
    if "digit 1 or 2 alone" in words:
        p = prefer(profile, both, mean) * (1 - 2 * profile.first)
        return Said("2" if p > 0.5 else "1", {"1": 1 - p, "2": p})
    told = [f"Case {i} shows the robot and the object as in {case[-1][:12]}." for i, case in enumerate(both, 1)]
    prose = "\n".join([*told, SENTENCES[choice]])
    return Said(f"{prose}\n{SIGNS[choice]}" if "End with a line" in words else prose)


def _level(profile: Profile, parts: Sequence[Part], values: Mapping[str, float]) -> Said:
    shown = [part.picture for part in parts if part.picture]
    share = share_of(profile, sum(values[picture] for picture in shown) / len(shown), *shown)
    far = {level: (level - 1) / (LEVELS - 1) - share for level in range(1, LEVELS + 1)}
    odds = {level: math.exp(-0.5 * (distance * (LEVELS - 1) / 0.5) ** 2) for level, distance in far.items()}
    best = max(odds, key=odds.__getitem__)
    return Said(str(best), {str(level): odd / sum(odds.values()) for level, odd in odds.items()})


def _truth(profile: Profile, parts: Sequence[Part], values: Mapping[str, float]) -> Said:
    last = [part.picture for part in parts if part.picture][-1]
    p = min(max(share_of(profile, values[last], last), 1e-4), 1 - 1e-4)
    return Said("True" if p > 0.5 else "False", {"True": p, "False": 1 - p})


def _progress(profile: Profile, parts: Sequence[Part], values: Mapping[str, float]) -> Said:
    words, frames = "", []
    for part in parts:
        words += part.text
        if part.picture and "random order" in words:  # not the reference
            frames.append(part.picture)
    each = [100 * share_of(profile, values[frame], frame) for frame in frames]
    return Said("\n".join(f"Frame {i}: {percent:.0f}%" for i, percent in enumerate(each, 1)))
