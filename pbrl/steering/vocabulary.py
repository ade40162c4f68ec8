"""The words that steering understands: names of attributes, what has more or less of them, and degrees.

A word is told by its sign, what it is about, and whether it asks for a change or for a level.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

LITTLE, SOME, MUCH = 0.1, 0.2, 0.4  # changes of a strength
MIDDLE, LEVEL, HIGH_LEVEL = 0.5, 0.8, 0.9  # strengths: where none is asked for, "fast", "very fast"


class Subject(NamedTuple):
    """What an attribute may be called. Adjectives and verbs say that there be more, or less, of it."""

    nouns: str
    more: str = ""
    less: str = ""
    raising: str = ""
    lowering: str = ""
    opposite: str = ""  # nouns of which less is more of the attribute


SUBJECTS: Mapping[str, Subject] = {
    "speed": Subject(
        "speed,pace,velocity,tempo",
        "fast,quick,swift,brisk,rapid",
        "slow,sluggish,leisurely",
        "speed up,hurry,hurry up,accelerate,rush",
        "slow down,decelerate",
    ),
    "height": Subject(
        "height,altitude,body,torso,hand,tool",
        "high,tall,upright",
        "low",
        "raise,lift,rise,go up,get up,stand up,stand tall,straighten up",
        "crouch,duck,squat,bend down,go down,get down",
    ),
    "gentleness": Subject(
        "gentleness,smoothness,calmness,softness",
        "gentle,smooth,calm,soft,careful",
        "jerky,rough,abrupt,hasty,violent",
        "calm down,relax",
        opposite="jerkiness,roughness,acceleration",
    ),
    "stride": Subject("stride,strides,stride length,step,steps,step length", "long", "short"),
    "contact": Subject(
        "contact,foot contact,feet contact,ground contact",
        raising="feet down,feet on the ground,touch the ground,drag your feet",
        lowering="feet up,feet off the ground,hop",
        opposite="feet,foot",
    ),
    "clearance": Subject(
        "clearance,distance,margin",
        "far away,distant",
        "close,near",
        "keep away,stay away,stay clear,keep clear",
        "come close",
    ),
    "spread": Subject("spread", "scattered,dispersed", "compact,packed", "spread out,scatter", "gather"),
}
MORE = "high,big,large,great,long,strong"  # more of any attribute that is named: "high speed", "longer steps"
LESS = "low,small,short,weak,little"
RAISING, LOWERING = "increase,raise,lift,pick up,boost", "decrease,reduce,lower,drop,cut"

CHANGES = {  # how large a change is
    LITTLE: "a bit,a little,a little bit,slightly,somewhat,a touch,a tad",
    MUCH: "much,a lot,lots,far,way,considerably,significantly,very much",
}
LEVELS = {MIDDLE: "medium,half,middle,average,moderate,moderately,mid"}
MOST, LEAST = "most,maximum,maximal,max,full,utmost", "least,minimum,minimal,min"
ANY = (
    "any,don't care about,do not care about,dont care about,don't care,whatever,no matter,never mind,ignore,forget,"
    "doesn't matter,does not matter,may be anything,as it will,free"
)
SAME = "same,keep the,keep your,keep,stay as,unchanged"
NOT = "not,don't,do not,dont,never"
OTHERS = {"too": "too,so", "very": "very,really", "by": "by", "to": "to"}
FILLERS = (
    "walk,walking,run,running,go,going,move,moving,stay,be,get,make,making,take,taking,come,do,act,trot,try,possible,it,"
    "its,it's,that's,him,you,your,yourself,the,a,an,robot,walker,please,now,at,in,of,on,up,is,should,can,could,would,"
    "will,i,want,let,let's,me,us,than,quite,rather,just,still,this,that,there,then,motion,movement,movements"
)


class Word(NamedTuple):
    """What a word or phrase means.

    `kind`: noun (an attribute); change, level or end (of it: faster, fast, fastest); more, most, degree, fraction, any,
    same, not, too, very, by, to or filler. `subject` is "" where a noun has to say of what; `is_general` where it may.
    """

    kind: str
    subject: str = ""
    sign: int = 1
    amount: float = 0.0
    is_general: bool = False


@cache
def words() -> dict[str, Word]:
    """Every phrase that is understood, in lower case."""
    found = {word: Word("filler") for word in FILLERS.split(",")}
    for kind, listed in (("any", ANY), ("same", SAME), ("not", NOT), *OTHERS.items()):
        found |= {word: Word(kind) for word in listed.split(",")}
    found |= {word: Word("degree", amount=size) for size, listed in CHANGES.items() for word in listed.split(",")}
    found |= {word: Word("fraction", amount=size) for size, listed in LEVELS.items() for word in listed.split(",")}
    for sign, changes, most in ((1, "more", MOST), (-1, "less,fewer", LEAST)):
        found |= {word: Word("more", sign=sign) for word in changes.split(",")}
        found |= {word: Word("most", sign=sign) for word in most.split(",")}
    for sign, adjectives, verbs in ((1, MORE, RAISING), (-1, LESS, LOWERING)):
        found |= _forms(adjectives, verbs, "", sign, is_general=True)
    for name, subject in SUBJECTS.items():
        for sign, adjectives, verbs in ((1, subject.more, subject.raising), (-1, subject.less, subject.lowering)):
            own = _forms(adjectives, verbs, name, sign)
            found |= {text: word._replace(is_general=text in found) for text, word in own.items()}
        found |= {word: Word("noun", name) for word in subject.nouns.split(",")}
        found |= {word: Word("noun", name, -1) for word in filter(None, subject.opposite.split(","))}
    return found


def _forms(adjectives: str, verbs: str, subject: str, sign: int, is_general: bool = False) -> dict[str, Word]:
    """Adjectives: as they are a level, compared a change, superlative an end. Verbs, also with -ing, are a change."""
    found: dict[str, Word] = {}
    for text in filter(None, adjectives.split(",")):
        found |= dict.fromkeys([text, *_stems(text, "ly")], Word("level", subject, sign, 0.0, is_general))
        found |= dict.fromkeys(_stems(text, "er"), Word("change", subject, sign, 0.0, is_general))
        found |= dict.fromkeys(_stems(text, "est"), Word("end", subject, sign, 0.0, is_general))
    for text in filter(None, verbs.split(",")):
        first, _, rest = text.partition(" ")
        for verb in (first, *_stems(first, "ing")):
            found[f"{verb} {rest}".strip()] = Word("change", subject, sign, 0.0, is_general)
    return found


def _stems(text: str, ending: str) -> Iterator[str]:
    """The word with an ending, in every way that English may write it; most of these are no words."""
    yield text + ending
    if text[-1] == "e":
        yield text[:-1] + ending
        yield text[:-1] + ending.replace("ly", "y")
    if text[-1] == "y":
        yield text[:-1] + "i" + ending
    yield text + text[-1] + ending


def subjects_of(attributes: Sequence[str]) -> dict[str, tuple[str, int]]:
    """What each attribute is about, and its sign: a planner may call its speed `faster`, or its opposite `slow`."""
    found = {}
    for name in attributes:
        word = words().get(spoken(name))
        found[name] = (word.subject, word.sign) if word and word.subject else (name, 1)
    return found


def spoken(name: str) -> str:
    """An attribute's name as it is said: foot_height → foot height."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def vocabulary(attributes: Sequence[str]) -> dict[str, Word]:
    """All words, and the names of attributes that are about nothing known."""
    own = {spoken(name): Word("noun", name) for name, (about, _) in subjects_of(attributes).items() if about == name}
    return {**words(), **own}
