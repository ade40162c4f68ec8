"""Answers out of files: checked row by row, all or none, and of one rater's two answers the later stands."""

import gzip
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pbrl.feedback.exchange import export, flat, load
from pbrl.feedback.importing import Imported, import_files
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.raters import describe
from pbrl.feedback.read import count, read
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.stored import Stored
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.progress import answers_with_questions
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import Clip, UserError
from tests import toy
from tests.feedback.examples import EPISODE, labels_of, questions, record, value

START = datetime(2026, 1, 1, tzinfo=UTC)


def open_store(tmp_path: Path, name: str) -> Store:
    return Store(f"sqlite:///{tmp_path / name}.sqlite")


def respond(store: Store, ids, label: float | None, minutes: float, rater: str = "ada") -> None:
    """Answers of a rater to these questions, at a time by the rater's clock."""
    time = START + timedelta(minutes=minutes)
    store.append([Answer(f"{store.url[-9:-7]}{minutes}{q}"[:36], q, rater, value(label), time=time) for q in ids])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def exported(tmp_path) -> Path:
    """Six answers of ada to pairs of clips of eight steps."""
    store = open_store(tmp_path, "base")
    record(store, np.arange(12).reshape(6, 2), [0.0, 1.0, 1.0, 0.5, 1.0, None], "ada", length=8)
    export(store, tmp_path / "base.jsonl")
    return tmp_path / "base.jsonl"


# Two stores, one rater


@pytest.mark.parametrize("order", [("laptop", "desk"), ("desk", "laptop")])
def test_the_later_of_two_answers_stands(tmp_path, order):
    """20 questions answered "first" at a laptop and an hour later "second" at a copy: the second stands 20 times."""
    laptop = open_store(tmp_path, "laptop")
    ids = laptop.ask(questions(np.arange(40).reshape(20, 2)))
    laptop.add_rater("ada", "human")
    laptop.engine.dispose()
    shutil.copy(tmp_path / "laptop.sqlite", tmp_path / "desk.sqlite")
    desk, together = open_store(tmp_path, "desk"), open_store(tmp_path, "together")
    respond(laptop, ids, 0.0, 0)
    respond(desk, ids, 1.0, 60)
    for name, store in (("laptop", laptop), ("desk", desk)):
        export(store, tmp_path / f"{name}.jsonl")
    first, second = (import_files(together, [tmp_path / f"{name}.jsonl"]) for name in order)
    assert first == Imported(rows=20, new=20, gave_way=0, elsewhere=0)
    assert second == Imported(rows=20, new=20, gave_way=20, elsewhere=0)
    assert labels_of(together, ids) == [1.0] * 20 and together.counts()["answered"] == 20
    assert together.find_miscounted() == []
    again = import_files(together, [tmp_path / "laptop.jsonl", tmp_path / "desk.jsonl"])
    assert again == Imported(rows=40, new=0, gave_way=0, elsewhere=0) and labels_of(together, ids) == [1.0] * 20
    export(together, tmp_path / "together.jsonl")
    third = open_store(tmp_path, "third")
    assert load(third, tmp_path / "together.jsonl") == 60, "40 answers, and 20 that gave way"
    assert labels_of(third, ids) == [1.0] * 20 and list(flat(third)) == list(flat(together))


def test_without_a_clock_the_later_line_stands(tmp_path):
    row = {"question_kind": "pair", "rater_name": "ada", "episodes": ["e", "e"], "firsts": [0, 9], "lengths": [4, 4]}
    rows = [{**row, "event_outcome": "answer", "event_label": label} for label in (1, 0)]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    store = open_store(tmp_path, "one")
    assert import_files(store, [tmp_path / "two.jsonl"]) == Imported(2, 2, 1, 0)
    assert labels_of(store) == [0.0] and load(store, tmp_path / "two.jsonl") == 2 and store.counts()["asked"] == 1


def test_a_correction_at_one_store_and_an_older_answer_from_another(tmp_path):
    """First, then second at the laptop, "equal" in between at the desk: the laptop's last one stands."""
    stores = {name: open_store(tmp_path, name) for name in ("laptop", "desk")}
    for name, given in {"laptop": ((0.0, 0), (1.0, 90)), "desk": ((0.5, 30),)}.items():
        store = stores[name]
        ids = store.ask(questions([[1, 2]]))
        store.add_rater("ada", "human")
        for label, minutes in given:
            respond(store, ids, label, minutes)
        export(store, tmp_path / f"{name}.jsonl")
    for order in (("laptop", "desk"), ("desk", "laptop")):
        together = open_store(tmp_path, "-".join(order))
        found = import_files(together, [tmp_path / f"{name}.jsonl" for name in order])
        assert (found.rows, found.gave_way) == (3, 1) and labels_of(together) == [1.0]


# Repeats, and what they repeat


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_repeat_may_come_without_its_first_question_and_before_it(kind, request, tmp_path):
    """Ada answers the first, bob its mirror image; bob's answers are imported before ada's, and alone."""
    whole = open_store(tmp_path, "whole")
    (asked,) = questions([[1, 2]], wording={"text": "Which?"}, position=4, strategy="entropy", wanted=2)
    (first,) = whole.ask([asked])
    again = questions([[2, 1]], wording={"text": "Which?"}, purpose="repeat", repeats=first, position=14)
    (second,) = whole.ask(again)
    for rater in ("ada", "bob"):
        whole.add_rater(rater, "human")
    respond(whole, [second], 0.0, 0, "bob")
    respond(whole, [first], 1.0, 5, "bob")
    respond(whole, [first], 1.0, 6, "ada")
    export(whole, tmp_path / "whole.jsonl")
    rows = lines(tmp_path / "whole.jsonl")
    for name, own in (("repeat", rows[:1]), ("first", rows[1:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    new = open_store(tmp_path, "new") if kind == "sqlite" else Store(request.getfixturevalue("postgres")())
    assert load(new, tmp_path / "repeat.jsonl") == 1 and new.counts()["answered"] == 1
    assert new.questions([second])[second].repeats == first
    assert new.questions([first])[first].clips == asked.clips, "known by its mirror image"
    assert load(new, tmp_path / "first.jsonl") == 2
    assert list(flat(new)) == list(flat(whole)) and new.find_miscounted() == []
    assert new.questions([first]) == whole.questions([first])
    dataset = new.register([EPISODE])
    assert describe(answers_with_questions(new, dataset))["bob"]["consistent"] == 1.0


def test_a_question_that_was_only_repeated_is_asked_later(tmp_path):
    whole, new = open_store(tmp_path, "whole"), open_store(tmp_path, "new")
    (asked,) = questions([[1, 2]], position=4, wanted=3)
    (first,) = whole.ask([asked])
    record(whole, [[2, 1]], [1.0], purpose="repeat", repeats=first, position=14)
    export(whole, tmp_path / "repeat.jsonl")
    load(new, tmp_path / "repeat.jsonl")
    assert not new.has_missing([first]) and new.ask([asked]) == [first]
    assert new.questions([first])[first] == asked and new.has_missing([first]) and new.find_miscounted() == []


# Rows that somebody has edited


def changed(k: int = 2, **changes):
    """Changes the third row, its question's id left out unless it is given."""

    def change(row: dict, i: int) -> dict:
        return {**row, "question_id": None, **changes} if i == k else row

    return change


BAD = [  # what is done to row 3 of six, and what is said of it
    (lambda row, i: {**row, "event_label": (row["event_label"] or 0) + 1}, "line 2: .*from 0 .* to 1 .*not 2"),
    (lambda row, i: {**row, "event_label": 2 * (row["event_label"] or 0) - 1}, "line 1: .*not -1"),
    (changed(event_label="right"), "line 3: event_label is a finite number, not 'right'"),
    (changed(event_label=None), "line 3: the label of a comparison is P.second preferred.*not None"),
    (changed(event_label=float("nan")), "line 3: the label of a comparison is .*not None"),
    (changed(event_label=float("inf")), "line 3: event_label is a finite number, not inf"),
    (changed(event_outcome="tie"), "line 3: .*0.5 for a tie"),
    (changed(event_outcome="yes"), "line 3: an outcome is answer, tie or skip, not 'yes'"),
    (changed(event_outcome="skip"), "line 3: a skipped question has no label"),
    (changed(event_confidence=float("-inf")), "line 3: event_confidence is a finite number"),
    (changed(event_detail='{"strength": 9}'), "line 3: strength is a whole number from 1 to 3"),
    (changed(event_detail="[1]"), "line 3: event_detail is a JSON object"),
    (changed(event_detail='{"note": "a\\u0000b"}'), "line 3: event_detail holds a character that is no text"),
    (changed(event_time="yesterday"), "line 3: event_time is a time such as"),
    (changed(event_time="0001-01-01T00:00:00+23:59"), "line 3: event_time lies beyond the years"),
    (changed(event_kind="think"), "line 3: event_kind is answer, retract, pass, not 'think'"),
    (changed(event_kind="retract", event_supersedes="x"), "line 3: a retract has no outcome"),
    (changed(event_mood="good"), "line 3: there is no column event_mood: .*newer version"),
    (changed(episodes=[EPISODE] * 3, firsts=[1, 2, 3], lengths=[8] * 3), "line 3: clips=3: a pair is of 2 to 2 clips"),
    (changed(firsts=[1]), "line 3: episodes, firsts and lengths are lists"),
    (changed(firsts=[1, -4]), "line 3: a clip's first step is a whole number from 0, not -4"),
    (changed(firsts=[1, 2.5]), "line 3: a clip's first step is a whole number from 0, not 2.5"),
    (changed(lengths=[8, 0]), "line 3: a clip's length is a whole number from 1, not 0"),
    (changed(lengths=[8, 9]), "line 3: clips of one question are equally long"),
    (changed(question_length=16), "line 3: clips of one question are equally long"),
    (changed(question_kind="choice"), "line 3: there are no questions of kind 'choice'"),
    (lambda row, i: {**row, "firsts": [0, 1]}, "line 2: question_id .* is not that of its kind, clips"),
    (changed(rater_kind="robot"), "line 3: rater_kind is human, vlm, script, not 'robot'"),
    (changed(rater_name=None), "line 3: rater_name is missing"),
    (changed(rater_name=" "), "line 3: rater_name is 1 to 64 characters, without blanks around them, not ' '"),
    (changed(rater_name="ada "), "line 3: rater_name is 1 to 64 characters, without blanks .* not 'ada '"),
    (changed(event_confidence=-0.5), "line 3: an answer's confidence is a number from 0 to 1, not -0.5"),
    (changed(event_confidence=90), "line 3: an answer's confidence is a number from 0 to 1, not 90"),
    (changed(event_seconds=-5), "line 3: an answer's seconds are a finite number from 0, not -5"),
    (changed(event_uid="u", event_supersedes="u"), "line 3: an answer's supersedes names an earlier one"),
    (changed(episodes=["", EPISODE]), "line 3: a clip's episode is empty"),
    (changed(question_wanted=-1), "line 3: question_wanted is a whole number from 0, not -1"),
    (changed(question_purpose="gold"), "line 3: question_expected is missing"),
    (changed(question_purpose="gold", question_expected=7), "line 3: question_expected=7 is no right answer: .*to 1"),
    (changed(rater_name="a" * 65), "line 3: rater_name is text of up to 64 characters"),
]  # fmt: skip


@pytest.mark.parametrize("change,sentence", BAD)
def test_a_row_that_is_no_answer_is_named_and_nothing_is_imported(exported, tmp_path, change, sentence):
    rows = [change(row, i) for i, row in enumerate(lines(exported))]
    (tmp_path / "edited.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = open_store(tmp_path, "other")
    with pytest.raises(UserError, match=f"edited.jsonl, {sentence}") as error:
        load(store, tmp_path / "edited.jsonl")
    assert "Nothing was imported" in str(error.value)
    assert store.last() == 0 and store.counts()["asked"] == 0


SPAN = {"start": 0, "end": 8, "good": True}
VALUES = [  # of each kind: one that is taken, and others that are not
    ("rating", 1, Value("answer", 4.0), [Value("answer"), Value("tie", 3.0)]),
    ("ranking", 3, Value("answer", None, {"tiers": [[2], [0, 1]]}),
     [Value("answer", None, {"tiers": [[0.0], [1], [2]]}), Value("answer", None, {"tiers": [[0], [1]]})]),
    ("attributes", 2, Value("answer", None, {"attributes": {"fast": 1.0, "high": None}}),
     [Value("answer", None, {"attributes": {"fast": 2}}), Value("answer", None, {"attributes": {}})]),
    ("triplet", 3, Value("tie", 0.5), [Value("answer", -1.0)]),
    ("spans", 1, Value("answer", None, {"spans": [SPAN], "marks": []}),
     [Value("answer", None, {"spans": [{**SPAN, "end": end}]}) for end in (9, 1_000_000, 7.0)]
     + [Value("answer", None, {"spans": [{**SPAN, "start": 3, "end": 2}]})]),
]  # fmt: skip


@pytest.mark.parametrize("kind,width,good,bad", VALUES)
def test_values_of_all_kinds_are_checked_against_their_clips(tmp_path, kind, width, good, bad):
    store = open_store(tmp_path, "base")
    (question,) = store.ask(questions([range(width)], kind=kind, length=8))
    store.add_rater("ada", "human")
    store.append([Answer("1", question, "ada", good)])
    export(store, tmp_path / "a.jsonl")
    (row,) = lines(tmp_path / "a.jsonl")
    assert load(open_store(tmp_path, "good"), tmp_path / "a.jsonl") == 1
    for i, (outcome, label, detail) in enumerate(bad):
        own = {"event_outcome": outcome, "event_label": label, "event_detail": detail and json.dumps(detail)}
        (tmp_path / "bad.jsonl").write_text(json.dumps({**row, **own}))
        with pytest.raises(UserError, match="bad.jsonl, line 1: "):
            load(open_store(tmp_path, f"bad{i}"), tmp_path / "bad.jsonl")


def test_clips_are_compared_with_the_data(exported, tmp_path):
    """Against a data set, a clip beyond its episode's end is refused; an episode that it has not is said, and kept."""
    table = toy.table(2)
    ids, steps = table.ids, int(table.steps[0])
    row = lines(exported)[0]
    inside = {**row, "question_id": None, "event_uid": None, "episodes": [ids[0], ids[1]], "firsts": [steps - 8, 0]}
    store = open_store(tmp_path, "other")
    (tmp_path / "in.jsonl").write_text(json.dumps(inside) + "\n" + json.dumps(row) + "\n")
    assert import_files(store, [tmp_path / "in.jsonl"], table) == Imported(2, 2, 0, elsewhere=1)
    for beyond in (steps - 7, 10**6):
        (tmp_path / "out.jsonl").write_text(json.dumps({**inside, "firsts": [beyond, 0]}))
        with pytest.raises(UserError, match=f"line 1: steps {beyond} to {beyond + 8} lie beyond the end of episode"):
            import_files(open_store(tmp_path, "out"), [tmp_path / "out.jsonl"], table)


def test_clips_beyond_their_episodes_are_counted_when_they_are_read(exported, tmp_path, capsys):
    """Imported where the data was not at hand, they are learnt from never, and not in silence."""
    table = toy.table(2)
    ids, steps = table.ids, int(table.steps[0])
    rows = [
        {**row, "question_id": None, "episodes": [ids[0], ids[1]], "firsts": [first, 0], "question_position": i}
        for i, (row, first) in enumerate(zip(lines(exported), (0, steps - 8, steps - 7, 500), strict=False))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = open_store(tmp_path, "other")
    load(store, tmp_path / "a.jsonl")
    query = Query(kind="pair", count=9, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                  held_out=0.0, seed=0)  # fmt: skip
    labels, answers = read(store, table, query, Selection())
    assert labels.starts[:, 0].tolist() == [0, steps - 8] and len(answers) == 4
    assert count(answers, table, 4) == {"asked": 4, "answered": 2, "ties": 0, "skipped": 0, "left_out": 2}
    plain = {"rater": None, "count": None, "aggregate": False, "attribute": None, "strengths": None}
    Stored(**plain).start(Context(store, table, query, data_dir=tmp_path))
    assert f"2 answers are left out: that of ada to question {answers[2][0].question}, as steps {steps - 7} to " in (
        capsys.readouterr().out
    )


def test_a_hand_made_file_needs_little(tmp_path):
    """Rater, kind, clips and the answer; the rest has defaults, and importing it twice doubles nothing."""
    row = {"question_kind": "pair", "rater_name": "eve", "episodes": ["a", "b"], "firsts": [0, 5], "lengths": [8, 8],
           "event_outcome": "answer", "event_label": 0.25, "comment": "mine"}  # fmt: skip
    (tmp_path / "hand.jsonl").write_text(json.dumps(row))
    store = open_store(tmp_path, "hand")
    assert load(store, tmp_path / "hand.jsonl") == load(store, tmp_path / "hand.jsonl") == 1
    (answer,) = store.answers()
    assert (answer.rater, answer.value, answer.confidence) == ("eve", Value("answer", 0.25), 1.0)
    asked = Question("pair", (Clip("a", 0, 8), Clip("b", 5, 8)), strategy="imported")
    assert store.questions([asked.id]) == {asked.id: asked}


def test_what_contradicts_the_store_is_refused(exported, tmp_path):
    store = open_store(tmp_path, "other")
    load(store, exported)
    before = list(flat(store))
    for change, sentence in (
        ({"event_label": 1.0}, "line 1: the store has another event with event_uid"),
        ({"rater_kind": "human"}, "rater ada is a script in the store and a human"),
        ({"event_uid": "new", "event_kind": "retract", "event_outcome": None, "event_label": None, "rater_name": "bob",
          "event_supersedes": before[0]["event_uid"]}, "line 1: event_supersedes is no answer of its rater"),
    ):  # fmt: skip
        (tmp_path / "other.jsonl").write_text(json.dumps({**before[0], **change}))
        with pytest.raises(UserError, match=sentence):
            load(store, tmp_path / "other.jsonl")
    assert list(flat(store)) == before


# Files


def test_marks_blank_lines_and_line_ends_of_other_systems(exported, tmp_path):
    text = exported.read_text()
    forms = {
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "windows": text.replace("\n", "\r\n").encode(),
        "blank": ("\n\n" + text.replace("\n", "\n \n\t\n")).encode(),
        "powershell": text.replace("\n", "\r\n").encode("utf-16"),
        "no-end": text.rstrip().encode(),
        "unicode": text.replace('"ada"', '"ad\u2028\x85é"').encode(),  # marks that are no line ends
    }
    for name, content in forms.items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        store = open_store(tmp_path, name)
        assert load(store, tmp_path / f"{name}.jsonl") == 6, name
        assert labels_of(store) == [0.0, 1.0, 1.0, 0.5, 1.0, None], name


def test_cut_off_and_other_files(exported, tmp_path):
    text = exported.read_text().encode()
    for name, content, sentence in (
        ("cut", text[:-40], "cut.jsonl, line 6 is no JSON .*cut off"),
        ("array", b"[1, 2]", "line 1 is no JSON object"),
        ("latin", text.replace(b'"ada"', b'"\xe9a"'), "line 1 is no UTF-8 text"),
        ("deep", b"[" * 100_000, "line 1 is no JSON"),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            load(open_store(tmp_path, name), tmp_path / f"{name}.jsonl")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + text)
    with pytest.raises(UserError, match="cut.parquet is no Parquet"):
        load(open_store(tmp_path, "parquet"), tmp_path / "cut.parquet")
    with pytest.raises(UserError, match="cannot read .*nothing.jsonl .No such file"):
        load(open_store(tmp_path, "none"), tmp_path / "nothing.jsonl")


def test_a_folder_of_several_parts(exported, tmp_path):
    """As `datasets` writes large tables, and with what systems leave beside; none may be missing."""
    pyarrow = pytest.importorskip("pyarrow")
    rows, folder = lines(exported), tmp_path / "parts"
    (folder / "data").mkdir(parents=True)
    for i in range(3):
        table = pyarrow.Table.from_pylist(rows[2 * i : 2 * i + 2])
        pyarrow.parquet.write_table(table, folder / "data" / f"train-0000{i}-of-00003.parquet")
    (folder / "data" / "._train-00000-of-00003.parquet").write_bytes(b"a Mac's")
    (folder / "dataset_infos.json").write_text("{}")
    store = open_store(tmp_path, "whole")
    assert load(store, folder) == 6 and len(store.answers()) == 6
    (folder / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="train-00001-of-00003.parquet is missing: this is a table of 3 files"):
        load(open_store(tmp_path, "part"), folder)
    shutil.rmtree(folder / "data")
    for i in range(2):
        part = "".join(json.dumps(row) + "\n" for row in rows[3 * i : 3 * i + 3])
        (folder / f"part{i}.jsonl").write_text(part)
    (folder / "dataset_infos.json").unlink()
    assert load(open_store(tmp_path, "lines"), folder) == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no file of answers"):
        load(open_store(tmp_path, "no"), tmp_path / "empty")


def test_tables_that_went_through_another_program(exported, tmp_path):
    """pandas makes floats of whole numbers beside gaps, and NaN of what is missing."""
    pyarrow = pytest.importorskip("pyarrow")
    rows = [
        {**row, "question_round": float(row["question_round"]), "event_seconds": float("nan"), "question_repeats": None,
         "event_label": float("nan") if row["event_label"] is None else row["event_label"]}
        for row in lines(exported)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    store = open_store(tmp_path, "x")
    assert load(store, tmp_path / "x.parquet") == 6 and labels_of(store) == [0.0, 1.0, 1.0, 0.5, 1.0, None]


# Times


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_times_keep_their_moment_in_every_zone(kind, request, tmp_path):
    """Noon in Berlin is 11:00 UTC, by whatever zone a database or file names it."""
    url = f"sqlite:///{tmp_path / 'a.sqlite'}" if kind == "sqlite" else request.getfixturevalue("postgres")()
    store = Store(url)
    if kind == "postgresql":
        with store.writing() as connection:
            name = store.engine.url.database
            connection.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET timezone = 'America/New_York'")
        store.engine.dispose()
        store = Store(url)
    (question,) = store.ask(questions([[1, 2]]))
    store.add_rater("ada", "human")
    noon = datetime.fromisoformat("2026-11-28T12:00:00+01:00")
    store.append([Answer("1", question, "ada", value(1.0), time=noon)])
    (row,) = flat(store)
    assert row["event_time"] == "2026-11-28T11:00:00+00:00"
    now = datetime.now(UTC)
    for name in ("event_stored", "question_asked"):
        assert abs(datetime.fromisoformat(row[name]) - now) < timedelta(minutes=5)
    assert [answer.time for answer in store.answers()] == [noon]
    row |= {"event_time": "2026-11-28T06:30:00-05:00", "event_uid": "2"}  # half an hour later
    (tmp_path / "zone.jsonl").write_text(json.dumps(row))
    assert load(store, tmp_path / "zone.jsonl") == 1
    assert [answer.time for answer in store.answers()] == [noon + timedelta(minutes=30)], "and so it stands"


def test_an_older_export_is_checked_too(tmp_path):
    fixture = Path(__file__).parent / "store" / "fixtures" / "answers-0002.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(fixture.read_bytes()).splitlines()]
    place = next(i for i, row in enumerate(rows) if row["question_kind"] == "pair" and row["event_label"] == 1.0)
    rows[place]["event_label"] = 7.0
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"line {place + 1}: the label of a comparison"):
        load(open_store(tmp_path, "old"), tmp_path / "old.jsonl")
