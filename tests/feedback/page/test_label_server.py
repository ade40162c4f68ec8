"""Over HTTP: who may see and say what, and that nonsense is told apart from trouble."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from sqlalchemy import select
from starlette.testclient import TestClient

from pbrl.data import episodes as files
from pbrl.data.table import Table
from pbrl.feedback import questions as kinds
from pbrl.feedback.page.clips import Clips, Look, Renderers
from pbrl.feedback.page.server import Desk, make_app
from pbrl.feedback.store.leases import lease, release
from pbrl.feedback.store.schema import Question
from pbrl.feedback.store.store import Store
from pbrl.label import free_port
from pbrl.types import UserError
from tests import toy

POINT = {"_target_": "tests.toy.Point"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "point"
    provenance = files.write(path, toy.episodes(6), {})
    source = {"env": POINT, "data": {"path": str(path)}, "folder": path.parent, "seed": 0, "workers": 0}
    return source, provenance["content_hash"]


@pytest.fixture
def desk(data, tmp_path):
    source, dataset = data
    clips = Clips(Renderers(source), tmp_path / "clips", look=Look(64, 10), limit_mb=10)
    store = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    starts = np.array([[0, 31], [62, 5], [3, 33]])
    store.ask(dataset=dataset, length=8, kind="pair", strategy="uniform", round_=0, starts=starts,
              wording={"text": "Which?"})  # fmt: skip
    return Desk(store, clips, dataset, "Watch.")


@pytest.fixture
def client(desk):
    with TestClient(make_app(desk, ["localhost"]), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def shared(desk):
    desk.raters = {"t" * 32: "ada", "u" * 32: "bob", "v" * 32: desk.me}
    with TestClient(make_app(desk, ["localhost"]), base_url="http://localhost", follow_redirects=False) as client:
        yield client


def event(question: str, choice: str = "first", **more) -> dict:
    return {"uid": uuid4().hex, "question": question, "kind": "answer", "said": {"choice": choice}, **more}


def test_a_question_its_clips_and_an_answer(client, desk):
    got = client.post("/api/next", json={"n": 2}).json()
    assert [len(got["questions"]), got["done"], got["left"]] == [2, 0, 1]
    question = got["questions"][0]
    assert question["words"] == {"text": "Which?"} and sorted(question["order"]) == [0, 1]
    clip = client.get(question["clips"][0])
    assert clip.headers["content-type"] == "video/mp4" and b"ftyp" in clip.content[:12]
    part = client.get(question["clips"][0], headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and len(part.content) == 10
    told = event(
        question["question"], seconds=2.5, shown={"order": question["order"]}, told="2026-11-21T10:00:00+02:00"
    )
    assert client.post("/api/tell", json=told).json() == client.post("/api/tell", json=told).json() == {"seq": 1}
    (kept,) = desk.store.tail(0)
    assert (kept["label"], kept["seconds"], kept["rater"]) == (0.0, 2.5, "me")
    assert kept["shown"]["order"] == question["order"] and kept["told"].hour == 8, "in universal time"
    assert client.get("/api/about").json()["done"] == 1


def test_the_page_and_what_it_may_do(client):
    page = client.get("/")
    assert page.status_code == 200 and "page.js" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text.replace("http://www.w3.org", "") and "https://" not in page.text


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"question": "nothing"}, 400), ({"said": {"choice": "both"}}, 400), ({"said": None}, 400),
        ({"said": {"choice": "first", "rating": 3}}, 400), ({"kind": "retract"}, 400),
        ({"kind": "retract", "supersedes": "x"}, 400), ({"kind": "drop"}, 422), ({"uid": "1"}, 422),
        ({"rater": "bob"}, 422), ({"seconds": -1}, 422), ({"said": {"choice": "first", "note": "x" * 2001}}, 400),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_nothing_kept(client, desk, changed, status):
    question = client.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    answer = client.post("/api/tell", json={**event(question), **changed})
    assert answer.status_code == status and answer.json()["detail"], answer.text
    assert desk.store.last() == 0


def test_other_sites_and_other_names(client):
    def status(**headers):
        return client.post(
            "/api/next", json={"n": 1}, headers={k.replace("_", "-"): v for k, v in headers.items()}
        ).status_code

    assert status() == status(origin="http://localhost") == status(sec_fetch_site="same-origin") == 200
    assert status(origin="http://evil.example") == status(origin="null") == status(sec_fetch_site="cross-site") == 403
    assert status(host="evil.example") == 400, "a name that was bound to this address by somebody else"
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


def test_without_a_link_nothing_is_seen_or_said(shared, desk):
    clip = next(iter(lease(desk.store, "ada", 1))).clips[0]
    release(desk.store, "ada")
    for answer in (
        shared.get("/"), shared.get("/?token=wrong"), shared.get("/api/about"), shared.get(f"/media/{clip}.mp4"),
        shared.post("/api/next", json={"n": 1}), shared.post("/api/tell", json=event("x")),
    ):  # fmt: skip
        assert answer.status_code == 401


def test_who_speaks_is_read_from_the_link(shared, desk):
    welcome = shared.get("/?token=" + "t" * 32)
    assert welcome.status_code == 303 and "HttpOnly" in welcome.headers["set-cookie"]
    assert "samesite=strict" in welcome.headers["set-cookie"].lower()
    question = shared.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    uid = event(question)["uid"]
    assert shared.post("/api/tell", json=event(question) | {"uid": uid}).status_code == 200
    assert [e["rater"] for e in desk.store.tail(0)] == ["ada"]
    shared.cookies.clear()
    shared.get("/?token=" + "u" * 32)
    taken = shared.post(
        "/api/tell", json={"uid": uuid4().hex, "question": question, "kind": "retract", "supersedes": uid}
    )
    assert taken.status_code == 400, "bob cannot take back what ada said"


def test_practice_comes_first_and_again_until_it_is_passed(client, desk):
    asked = dict(dataset=desk.dataset, length=8, kind="pair", strategy="uniform", round_=0)
    desk.store.ask(**asked, starts=np.array([[9, 40], [40, 9]]), expected=[1.0, 0.0], purpose="practice", wanted=99,
                   priority=1.0)  # fmt: skip

    def answer(*choices: str) -> list[bool]:
        got = client.post("/api/next", json={"n": 5}).json()["questions"]
        assert [q["purpose"] for q in got] == ["practice"] * 2, "and nothing else"
        told = [event(q["question"], choice) for q, choice in zip(got, choices, strict=True)]
        return [client.post("/api/tell", json=one).json()["right"] for one in told]

    first, second = answer("second", "second")
    assert {first, second} == {True, False}
    again = client.post("/api/next", json={"n": 5}).json()
    assert again["again"] and len(again["questions"]) == 2
    right = ["second", "first"] if first else ["first", "second"]
    assert answer(*right) == [True, True]
    after = client.post("/api/next", json={"n": 5}).json()
    assert not after["again"] and [q["purpose"] for q in after["questions"]] == [None] * 3
    assert desk.store.miscounted() == []


def test_only_whoever_asks_sees_what_is_thought_of_raters(shared, desk):
    shared.get("/?token=" + "t" * 32)
    assert shared.get("/api/stats").status_code == 403
    shared.cookies.clear()
    shared.get("/?token=" + "v" * 32)
    assert shared.get("/api/stats").status_code == 200


def test_statistics(client):
    for question in client.post("/api/next", json={"n": 3}).json()["questions"]:
        client.post("/api/tell", json=event(question["question"], seconds=1.5, shown={"order": question["order"]}))
    found = client.get("/api/stats").json()
    assert found["counts"]["answered"] == 3 and found["alpha"] is None and found["seconds"] == [1.5] * 3
    assert found["raters"]["me"]["median_seconds"] == 1.5 and found["raters"]["me"]["guesses"] is None


@pytest.mark.parametrize(("checks", "extra"), [({"repeats": 0.5, "gold": 0.25, "practice": 2}, 5 + 2 + 2), ({}, 0)])
def test_checks_are_asked_among_the_others(tmp_path, data, checks, extra):
    """Half of ten come again mirrored, later; gold and practice are the clearest of many pairs by their true return."""
    from pbrl.label import ask

    table = Table(files.read(Path(data[0]["data"]["path"])))
    store = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    config = {
        "query": {"kind": "pair", "count": 10, "length": 8, "clips": 4, "seed": 0}, "wanted": 1,
        "words": {"text": None, "better": "is better", "strength": False, "attributes": [], "stages": []},
        "checks": {"repeats": 0.0, "gold": 0.0, "practice": 0, "pass_mark": 0.8} | checks,
    }  # fmt: skip
    assert ask(config, store, table, data[1]) == ask(config, store, table, data[1]) == 10
    store.add_rater("ada", "human")
    leased = lease(store, "ada", 99)
    assert len(leased) == 10 + extra
    where = {one.question: i for i, one in enumerate(leased)}
    clips = {one.question: one.clips for one in leased}
    for one in leased:
        if one.purpose in ("gold", "practice"):
            starts = torch.tensor([store.places([clip])[clip][0] for clip in one.clips])
            gap = table.reward[table.segment_rows(starts, 8)].sum(-1).diff().item()
            assert one.expected == float(gap > 0) and abs(gap) > 2
    with store.reading() as connection:
        for question, first in connection.execute(select(Question.id, Question.repeats).where(Question.repeats != "")):
            assert clips[question] == clips[first][::-1] and where[question] > where[first]
    if checks:
        assert [one.purpose for one in leased[:2]] == ["practice"] * 2


def test_a_database_in_trouble_is_no_lost_answer(client, desk, monkeypatch):
    question = client.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]
    told = event(question)

    def fails(*_):
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "append_each", fails)
        answer = client.post("/api/tell", json=told)
    assert answer.status_code == 503 and "disk is full" in answer.json()["detail"], "the page keeps it and tries again"
    assert client.post("/api/tell", json=told).status_code == 200


def test_clips_are_kept_below_a_limit(data, tmp_path):
    clips = Clips(Renderers(data[0]), tmp_path, look=Look(64, 10), limit_mb=0.02)
    try:
        made = [clips.get(str(i), 3 * i, 8).result() for i in range(14)]
        clips._tidy()
        assert sum(f.stat().st_size for f in tmp_path.glob("*.mp4")) <= 0.02e6 or len(list(tmp_path.glob("*"))) <= 8
        assert made[-1].exists() and not made[0].exists()
        assert clips.get("0", 0, 8).result().exists(), "what is wanted again is made again"
    finally:
        clips.renderers.close()


def test_a_renderer_that_was_killed_is_started_again(client, desk):
    first, second = client.post("/api/next", json={"n": 2}).json()["questions"]
    assert client.get(first["clips"][0]).status_code == 200
    for process in list(desk.clips.renderers.pool._processes.values()):
        process.kill()
        process.join()
    answers = [client.get(second["clips"][0]).status_code for _ in range(3)]
    assert answers[-1] == 200 and set(answers) <= {200, 503}


def test_a_clip_that_cannot_be_rendered_says_why(client, desk, data):
    desk.store.ask(dataset=data[1], length=8, kind="rating", strategy="uniform", round_=9, starts=np.array([[10**6]]),
                   priority=9.0)  # fmt: skip
    (question,) = client.post("/api/next", json={"n": 1}).json()["questions"]
    answer = client.get(question["clips"][0])
    assert answer.status_code == 503 and "could not be rendered" in answer.json()["detail"]


def test_a_port_that_is_taken():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("pair", {"choice": "second", "strength": 2}, ("answer", 1.0, {"strength": 2})),
        ("pair", {"choice": "equal"}, ("tie", 0.5, None)),
        ("pair", {"choice": "cant_tell", "note": "dark"}, ("skip", None, {"note": "dark"})),
        ("rating", {"rating": 3}, ("answer", 3.0, None)),
        ("ranking", {"tiers": [[2], [0, 1]]}, ("answer", None, {"tiers": [[2], [0, 1]]})),
        ("ranking", {"tiers": [[0, 1, 2]]}, ("tie", None, {"tiers": [[0, 1, 2]]})),
        ("triplet", {"choice": "first"}, ("answer", 0.0, None)),
        ("attributes", {"attributes": {"fast": "second"}}, ("answer", None, {"attributes": {"fast": 1.0}})),
    ],
)
def test_what_answers_say(kind, said, expected):
    assert kinds.judge(kind, said, 3 if kind == "ranking" else kinds.CLIPS[kind]) == expected


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pair", {"choice": "equal", "strength": 2}), ("pair", {"choice": []}), ("rating", {"rating": 6}),
        ("rating", {"rating": True}), ("ranking", {"tiers": [[0], [1]]}), ("ranking", {"tiers": [[0], [0, 1, 2]]}),
        ("ranking", {"tiers": [0, 1, 2]}), ("attributes", {"attributes": {}}), ("attributes", {"attributes": {"a": 1}}),
        ("spans", {"spans": []}), ("spans", {"spans": [{"start": 5, "end": 2, "good": True}]}),
        ("spans", {"marks": [{"frame": 1, "name": ""}]}), ("opinion", {}),
    ],
)  # fmt: skip
def test_what_answers_cannot_say(kind, said):
    with pytest.raises(UserError):
        kinds.judge(kind, said, kinds.CLIPS.get(kind, 3))
