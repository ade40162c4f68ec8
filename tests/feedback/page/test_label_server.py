"""Over HTTP: what each rater may see and answer, and that invalid requests and database errors differ in status."""

import shutil
from dataclasses import replace
from uuid import uuid4

import pytest
import torch
from starlette.testclient import TestClient

from pbrl.data.rendering import Renderers
from pbrl.feedback.page.clips import Clips, Look
from pbrl.feedback.page.server import make_app
from pbrl.feedback.questions import KINDS, Question, Value, clip_id, parse
from pbrl.feedback.store.database import Unavailable
from pbrl.feedback.store.leases import lease, release
from pbrl.feedback.store.store import Store
from pbrl.label.network import listen
from pbrl.label.questions import ask
from pbrl.types import Clip, UserError
from tests.feedback.page.conftest import pairs


@pytest.fixture
def client(project):
    with TestClient(make_app(project, ["localhost"]), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def shared(project):
    raters = {"t" * 32: "ada", "u" * 32: "bob", "v" * 32: project.me}
    app = make_app(replace(project, raters=raters), ["localhost"])
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


def event(question: str, choice: str = "first", **more) -> dict:
    return {"uid": uuid4().hex, "question": question, "kind": "answer", "value": {"choice": choice}, **more}


def test_a_question_its_clips_and_an_answer(client, project):
    got = client.post("/api/next", json={"n": 2}).json()
    assert [len(got["questions"]), got["done"], got["left"]] == [2, 0, 1]
    question = got["questions"][0]
    assert question["words"] == {"text": "Which?"} and sorted(question["order"]) == [0, 1]
    clip = client.get(question["clips"][0])
    assert clip.headers["content-type"] == "video/mp4" and b"ftyp" in clip.content[:12]
    part = client.get(question["clips"][0], headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and len(part.content) == 10
    sent = event(
        question["question"], seconds=2.5, shown={"order": question["order"]}, time="2026-11-21T10:00:00+02:00"
    )
    assert client.post("/api/answer", json=sent).json() == client.post("/api/answer", json=sent).json() == {"seq": 1}
    (event_row,) = project.store.tail(0)
    assert (event_row["label"], event_row["seconds"], event_row["rater"]) == (0.0, 2.5, "me")
    assert event_row["shown"]["order"] == question["order"] and event_row["time"].hour == 8, "in universal time"
    assert client.get("/api/about").json()["done"] == 1


def test_questions_come_with_what_the_robot_was_told(client, project):
    project.tasks = {episode: f"open drawer {i}" for i, episode in enumerate(project.first_rows)}
    (shown,) = client.post("/api/next", json={"n": 1}).json()["questions"]
    clips = project.question(shown["question"]).clips
    assert shown["tasks"] == [project.tasks[clip.episode] for clip in clips] and all(shown["tasks"])
    project.tasks = {}
    assert project.describe(shown["question"], project.question(shown["question"]), "me")["tasks"] == ["", ""]


def test_the_page_and_what_it_may_do(client):
    page = client.get("/")
    assert page.status_code == 200 and "page.js" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text.replace("http://www.w3.org", "") and "https://" not in page.text


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"question": "nothing"}, 400), ({"value": {"choice": "both"}}, 400), ({"value": None}, 400),
        ({"value": {"choice": "first", "rating": 3}}, 400), ({"kind": "retract"}, 400),
        ({"kind": "retract", "supersedes": "x"}, 400), ({"kind": "drop"}, 422), ({"uid": "1"}, 422),
        ({"rater": "bob"}, 422), ({"seconds": -1}, 422), ({"value": {"choice": "first", "note": "x" * 2001}}, 400),
    ],
)  # fmt: skip
def test_invalid_answers_are_refused_and_nothing_is_stored(client, project, changed, status):
    question = client.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    answer = client.post("/api/answer", json={**event(question), **changed})
    assert answer.status_code == status and answer.json()["detail"], answer.text
    assert project.store.last() == 0


def test_other_sites_and_other_names(client):
    def status(**headers):
        return client.post(
            "/api/next", json={"n": 1}, headers={k.replace("_", "-"): v for k, v in headers.items()}
        ).status_code

    assert status() == status(origin="http://localhost") == status(sec_fetch_site="same-origin") == 200
    assert status(origin="http://evil.example") == status(origin="null") == status(sec_fetch_site="cross-site") == 403
    assert status(host="evil.example") == 400, "a foreign name that was bound to this address"
    form = client.post("/api/next", content=b'{"n": 1}', headers={"content-type": "text/plain"})
    assert form.status_code == 415
    large = client.post("/api/next", content=b" " * 70_000, headers={"content-type": "application/json"})
    assert large.status_code == 413
    endless = client.post("/api/next", content=iter([b"{}"]), headers={"content-type": "application/json"})
    assert endless.status_code == 411


@pytest.mark.parametrize(
    "path",
    ["/media/..%2f..%2flabels.sqlite", "/media/%2e%2e/labels.sqlite", "/static/..%2fserver.py",
     "/static/%2e%2e/server.py", "/media/nothing.mp4", "/openapi.json", "/docs"],
)  # fmt: skip
def test_no_way_to_other_files(client, path):
    assert client.get(path).status_code == 404


def test_without_a_link_nothing_is_shown_or_answered(shared, project):
    clip = clip_id(lease(project.store, "ada", 1)[0].question.clips[0])
    release(project.store, "ada")
    for answer in (
        shared.get("/"), shared.get("/?token=wrong"), shared.get("/api/about"), shared.get(f"/media/{clip}.mp4"),
        shared.post("/api/next", json={"n": 1}), shared.post("/api/answer", json=event("x")),
    ):  # fmt: skip
        assert answer.status_code == 401


def test_the_rater_is_read_from_the_link(shared, project):
    welcome = shared.get("/?token=" + "t" * 32)
    assert welcome.status_code == 303 and "HttpOnly" in welcome.headers["set-cookie"]
    assert "samesite=lax" in welcome.headers["set-cookie"].lower()
    question = shared.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    uid = event(question)["uid"]
    assert shared.post("/api/answer", json=event(question) | {"uid": uid}).status_code == 200
    assert [e["rater"] for e in project.store.tail(0)] == ["ada"]
    shared.cookies.clear()
    shared.get("/?token=" + "u" * 32)
    taken = shared.post(
        "/api/answer", json={"uid": uuid4().hex, "question": question, "kind": "retract", "supersedes": uid}
    )
    assert taken.status_code == 403, "bob cannot take back what ada answered"


def test_practice_comes_first_and_again_until_it_is_passed(client, project, data):
    for starts, expected in (([9, 40], 1.0), ([40, 9], 0.0)):
        known = {"expected": expected, "purpose": "practice", "wanted": 99, "priority": 1.0}
        project.store.ask(pairs(data[1], starts, **known), project.dataset)

    def answer(*choices: str) -> list[bool]:
        got = client.post("/api/next", json={"n": 5}).json()["questions"]
        assert [q["purpose"] for q in got] == ["practice"] * 2, "and nothing else"
        sent = [event(q["question"], choice) for q, choice in zip(got, choices, strict=True)]
        return [client.post("/api/answer", json=one).json()["right"] for one in sent]

    first, second = answer("second", "second")
    assert {first, second} == {True, False}
    again = client.post("/api/next", json={"n": 5}).json()
    assert again["again"] and len(again["questions"]) == 2
    right = ["second", "first"] if first else ["first", "second"]
    assert answer(*right) == [True, True]
    after = client.post("/api/next", json={"n": 5}).json()
    assert not after["again"] and [q["purpose"] for q in after["questions"]] == [None] * 3
    assert project.store.find_miscounted() == []


def test_only_the_owner_sees_the_statistics(shared, project):
    shared.get("/?token=" + "t" * 32)
    assert shared.get("/api/stats").status_code == 403
    shared.cookies.clear()
    shared.get("/?token=" + "v" * 32)
    assert shared.get("/api/stats").status_code == 200


def test_statistics(client):
    for question in client.post("/api/next", json={"n": 3}).json()["questions"]:
        client.post("/api/answer", json=event(question["question"], seconds=1.5, shown={"order": question["order"]}))
    found = client.get("/api/stats").json()
    assert found["counts"]["answered"] == 3 and found["alpha"] == {"pair": None} and found["seconds"] == [1.5] * 3
    assert found["raters"]["me"]["median_seconds"] == 1.5 and found["raters"]["me"]["guesses"] is None


@pytest.mark.parametrize(("checks", "extra"), [({"repeats": 0.5, "gold": 0.25, "practice": 2}, 5 + 2 + 2), ({}, 0)])
def test_checks_are_asked_among_the_others(tmp_path, data, checks, extra):
    """Half of ten come again mirrored, later; gold and practice are the clearest of many pairs by their true return."""
    store, table = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}"), data[1]
    config = {
        "query": {"kind": "pair", "count": 10, "length": 8, "clips": 4, "seed": 0}, "wanted": 1,
        "words": {"text": None, "better": "is better", "strength": False, "attributes": [], "stages": []},
        "checks": {"repeats": 0.0, "gold": 0.0, "practice": 0, "pass_mark": 0.8} | checks,
    }  # fmt: skip
    dataset = store.register(table.ids)
    assert ask(config, store, table, dataset) == ask(config, store, table, dataset) == 10
    store.add_rater("ada", "human")
    leased = lease(store, "ada", 99)
    assert len(leased) == 10 + extra
    where = {one.id: i for i, one in enumerate(leased)}
    clips = {one.id: one.question.clips for one in leased}
    for one in leased:
        question = one.question
        if question.purpose in ("gold", "practice"):
            starts = torch.tensor([table.row(clip) for clip in question.clips])
            gap = table.reward[table.segment_rows(starts, 8)].sum(-1).diff().item()
            assert question.expected == float(gap > 0) and abs(gap) > 2
        if question.repeats:
            assert clips[one.id] == clips[question.repeats][::-1] and where[one.id] > where[question.repeats]
    assert sum(one.question.purpose == "repeat" for one in leased) == 5 * bool(checks)
    if checks:
        assert [one.question.purpose for one in leased[:2]] == ["practice"] * 2


@pytest.mark.parametrize("checks", [{"practice": 2}, {"gold": 0.5}])
def test_checks_are_refused_where_no_answer_is_known(tmp_path, data, checks):
    """Videos have rewards of 0 throughout: then no clip is better by the true return, and nothing is asked."""
    table = data[1]
    config = {
        "query": {"kind": "pair", "count": 4, "length": 8, "clips": 4, "seed": 0}, "wanted": 1,
        "words": {"text": None, "better": "is better", "strength": False, "attributes": [], "stages": []},
        "checks": {"repeats": 0.0, "gold": 0.0, "practice": 0, "pass_mark": 0.8} | checks,
    }  # fmt: skip
    store, known = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}"), table.reward.clone()
    try:
        table.reward.zero_()
        with pytest.raises(UserError, match="tells only 0 of 2 apart"):
            ask(config, store, table, store.register(table.ids))
    finally:
        table.reward.copy_(known)
    assert store.counts()["asked"] == 0
    config["query"]["kind"], config["words"]["text"] = "rating", "?"
    with pytest.raises(UserError, match="are of pairs"):
        ask(config, store, table, store.register(table.ids))


def test_a_database_in_trouble_is_no_lost_answer(client, project, monkeypatch):
    question = client.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    sent = event(question)

    def fails(*_):
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(project.store, "append_each", fails)
        answer = client.post("/api/answer", json=sent)
    assert answer.status_code == 503 and "disk is full" in answer.json()["detail"], "the page keeps it and tries again"
    assert client.post("/api/answer", json=sent).status_code == 200


def test_clips_are_kept_below_a_limit(data, tmp_path):
    clips = Clips(Renderers(data[0]), tmp_path, look=Look(64, 10), limit_mb=0.02)
    try:
        clip_files = [clips.get(str(i), 3 * i, 8).result() for i in range(14)]
        clips._tidy()
        assert sum(f.stat().st_size for f in tmp_path.glob("*.mp4")) <= 0.02e6 or len(list(tmp_path.glob("*"))) <= 8
        assert clip_files[-1].exists() and not clip_files[0].exists()
        assert clips.get("0", 0, 8).result().exists(), "what is wanted again is made again"
    finally:
        clips.renderers.close()


def test_a_renderer_that_was_killed_is_started_again(client, project):
    first, second = client.post("/api/next", json={"n": 2}).json()["questions"]
    assert client.get(first["clips"][0]).status_code == 200
    for process in list(project.clips.renderers.pool._processes.values()):
        process.kill()
        process.join()
    answers = [client.get(second["clips"][0]).status_code for _ in range(3)]
    assert answers[-1] == 200 and set(answers) <= {200, 503}


def test_a_clip_that_cannot_be_rendered_gets_a_reason(client, project, data):
    clip = Clip(data[1].ids[0], 10**6, 8)
    project.store.ask([Question("rating", (clip,), priority=9.0)], project.dataset)
    (question,) = client.post("/api/next", json={"n": 1}).json()["questions"]
    answer = client.get(question["clips"][0])
    assert answer.status_code == 503 and "could not be rendered" in answer.json()["detail"]


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 21000) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", port) as other:
            assert other.getsockname()[1] > port


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("pair", {"choice": "second", "strength": 2}, ("answer", 1.0, {"strength": 2})),
        ("pair", {"choice": "equal"}, ("tie", 0.5, None)),
        ("pair", {"choice": "cant_tell", "note": "dark"}, ("skip", None, {"note": "dark"})),
        ("rating", {"rating": 3}, ("answer", 3.0, None)),
        ("ranking", {"tiers": [[2], [0, 1]]}, ("answer", None, {"tiers": [[2], [0, 1]]})),
        ("ranking", {"tiers": [[0, 1, 2]]}, ("tie", None, {"tiers": [[0, 1, 2]]})),
        ("triplet", {"choice": "first"}, ("answer", 0.0, None)),
        (
            "spans",
            {"spans": [{"start": 0, "end": 8, "good": False}]},
            ("answer", None, {"spans": [{"start": 0, "end": 8, "good": False}], "marks": []}),
        ),
        ("attributes", {"attributes": {"fast": "second"}}, ("answer", None, {"attributes": {"fast": 1.0}})),
    ],
)
def test_what_answers_may_be(kind, value, expected):
    assert parse(kind, value, clips=KINDS[kind].clips[0], length=8) == Value(*expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("pair", {"choice": "equal", "strength": 2}), ("pair", {"choice": []}), ("rating", {"rating": 6}),
        ("rating", {"rating": True}), ("ranking", {"tiers": [[0], [1]]}), ("ranking", {"tiers": [[0], [0, 1, 2]]}),
        ("ranking", {"tiers": [0, 1, 2]}), ("attributes", {"attributes": {}}), ("attributes", {"attributes": {"a": 1}}),
        ("spans", {"spans": []}), ("spans", {"spans": [{"start": 5, "end": 2, "good": True}]}),
        ("spans", {"marks": [{"frame": 1, "name": ""}]}), ("opinion", {}),
        ("spans", {"spans": [{"start": 0, "end": 9, "good": True}]}), ("spans", {"marks": [{"frame": 9, "name": "a"}]}),
        ("ranking", {"tiers": [["0"], [1, 2]]}), ("ranking", {"tiers": [[0, True], [2]]}),
    ],
)  # fmt: skip
def test_what_answers_cannot_be(kind, value):
    clips = KINDS[kind].clips[0] if kind in KINDS else 1
    with pytest.raises(UserError):
        parse(kind, value, clips=clips, length=8)


def test_a_page_of_an_older_version_is_understood(client, project):
    """Its outbox holds answers that it has not sent, in the words of its time."""
    question = client.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    old = {"uid": uuid4().hex, "question": question, "kind": "answer", "said": {"choice": "second"},
           "told": "2026-11-21T10:00:00Z"}  # fmt: skip
    assert client.post("/api/tell", json=old).status_code == 200
    (answer,) = project.store.answers()
    assert answer.value == Value("answer", 1.0) and answer.time is not None


def test_a_clip_of_another_data_set_is_not_shown(client, project, data):
    other = Question("rating", (Clip("elsewhere", 0, 8),))
    project.store.ask([other])
    assert client.get(f"/media/{clip_id(other.clips[0])}.mp4").status_code == 404
    got = client.post("/api/next", json={"n": 9}).json()
    assert len(got["questions"]) == 3 and got["left"] == 0, "nor is it asked about"


def test_clips_are_made_again_where_their_folder_was_emptied(data, tmp_path):
    source, _ = data
    clips = Clips(Renderers(source), tmp_path / "clips", look=Look(32, 10), limit_mb=10)
    made = clips.get("a", 0, 4).result(timeout=60)
    (tmp_path / "clips" / "b.17.part.mp4").symlink_to("nowhere")  # as a file that goes while folders are read
    clips._tidy()
    shutil.rmtree(tmp_path / "clips")
    clips._tidy()
    assert clips.get("a", 0, 4).result(timeout=60) == made and made.stat().st_size > 0
    clips.renderers.close()
