"""Links outlive a restart and can be ended; what is refused is refused in words; one rater can do another no harm."""

import json
from dataclasses import replace
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from pbrl.data.rendering import Renderers
from pbrl.feedback.page.access import linked
from pbrl.feedback.page.limits import Rates
from pbrl.feedback.page.own import to_json
from pbrl.feedback.page.project import Project
from pbrl.feedback.page.server import make_app
from pbrl.feedback.questions import Question, parse
from pbrl.feedback.store.address import hide_passwords
from pbrl.feedback.store.database import Unavailable
from pbrl.feedback.store.store import Store
from pbrl.label.links import check_names, end_links, make_links
from pbrl.types import UserError
from tests.feedback.page.conftest import pairs

SECRET = "postgresql+psycopg://labels:s3cret@db/labels"


@pytest.fixture(scope="module")
def renderers(data):
    """One process for all tests here: they look at no clip."""
    renderers = Renderers(data[0])
    yield renderers
    renderers.close()


def browser(project: Project, token: str | None = None, cookies=None) -> TestClient:
    """A browser that has opened a link; the server ends with the process."""
    app = make_app(project, ["localhost"])
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False, cookies=cookies)
    client.__enter__()
    if token:
        assert client.get(f"/?token={token}").status_code == 200
    return client


def sent(question: str, **more) -> dict:
    return {"uid": uuid4().hex, "question": question, "kind": "answer", "value": {"choice": "first"}, **more}


def first(client: TestClient) -> str:
    return client.post("/api/next", json={"n": 1}).json()["questions"][0]["question"]


@pytest.fixture
def linking(project):
    """The project with links for ada and bob, and for me, who runs it."""
    tokens = make_links(project.store, ["ada", "bob", "me"])
    return replace(project, needs_link=True), tokens


def test_links_are_the_same_after_a_restart_and_open_the_same_page(linking, project):
    shared, tokens = linking
    ada = browser(shared, tokens["ada"])
    question = first(ada)
    again = replace(shared, handed_out=set(), questions={})  # the server is started again
    assert make_links(project.store, ["ada", "bob", "me"]) == tokens and again.id == shared.id
    client = browser(again, cookies=ada.cookies)
    assert client.post("/api/answer", json=sent(question)).status_code == 200, "handed out before"
    assert tokens["ada"] not in str(linked(project.store)), "the store holds no token"


def test_a_link_whose_token_is_not_here_goes_on_opening_the_page(linking, project, tmp_path):
    _, tokens = linking
    (tmp_path / "labels.sqlite.links.json").unlink()
    assert make_links(project.store, ["ada"])["ada"] is None
    assert browser(replace(project, needs_link=True), tokens["ada"]).get("/api/about").json()["rater"] == "ada"


def test_an_ended_link_opens_nothing_and_another_is_made(linking, project):
    shared, tokens = linking
    bob, me = browser(shared, tokens["bob"]), browser(shared, tokens["me"])
    assert bob.get("/api/about").status_code == 200
    assert me.post("/api/revoke", json={"rater": "bob"}).json() == {"revoked": True}
    assert bob.get("/api/about").status_code == 401
    assert {"rater": "bob", "link": True} not in me.get("/api/raters").json()["raters"]
    end_links(project.store, ["ada"])
    with pytest.raises(UserError, match="bob has no link"):
        end_links(project.store, ["bob"])
    fresh = make_links(project.store, ["bob"])["bob"]
    assert fresh and fresh != tokens["bob"] and browser(shared, fresh).get("/api/about").status_code == 200


def test_people_without_a_link_read_words_and_programs_json(linking):
    client = browser(linking[0])
    page = client.get("/")
    assert page.status_code == 401 and "<h1>" in page.text and page.headers["content-type"].startswith("text/html")
    answer = client.get("/api/about")
    assert answer.status_code == 401 and "link" in answer.json()["detail"]


def test_raters_see_nothing_of_each_other(linking):
    shared, tokens = linking
    ada, me = browser(shared, tokens["ada"]), browser(shared, tokens["me"])
    for path in ("/stats", "/export", "/api/stats", "/api/raters"):
        assert ada.get(path).status_code == 403 and me.get(path).status_code == 200, path
    assert ada.post("/api/revoke", json={"rater": "bob"}).status_code == 403
    assert not ada.get("/api/about").json()["owner"] and me.get("/api/about").json()["owner"]


def test_only_what_was_handed_out_may_be_answered(linking):
    shared, tokens = linking
    ada, bob = browser(shared, tokens["ada"]), browser(shared, tokens["bob"])
    question = first(ada)
    assert bob.post("/api/answer", json=sent(question)).status_code == 403
    assert ada.post("/api/answer", json=sent(question)).status_code == 200


def test_a_late_answer_of_a_lease_that_ran_out_counts(linking, project):
    from pbrl.feedback.store.leases import lease

    shared, tokens = linking
    ada = browser(shared, tokens["ada"])
    question = first(ada)
    (again,) = lease(project.store, "bob", 1, now=4e9)  # years later; ada's has run out
    assert again.id == question and project.store.find_miscounted() == []
    after = replace(shared, handed_out=set())
    client = browser(after, cookies=ada.cookies)
    assert client.post("/api/answer", json=sent(question)).status_code == 200
    assert project.store.find_miscounted() == []


def test_an_answer_of_another_project_is_left_to_that_one(project):
    client = browser(project)
    question = first(client)
    assert client.post("/api/answer", json=sent(question, project="0" * 32)).status_code == 421
    own = client.get("/api/about").json()["project"]
    assert client.post("/api/answer", json=sent(question, project=own)).status_code == 200


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ('"shown": {"x": NaN}', 400), ('"shown": {"x": "a\\u0000b"}', 400), ('"shown": {"order": 5}', 400),
        ('"shown": {"order": [0, 0]}', 400), ('"time": "0001-01-01T00:00:00+23:59"', 400),
        ('"time": "9999-12-31T23:59:59-23:59"', 400), ('"time": "2026-11-21T10:00:00"', 422),
        ('"seconds": NaN', 422), ('"seconds": 1e400', 422), ('"supersedes": "a\\u0000"', 422),
    ],
)  # fmt: skip
def test_what_no_database_keeps_is_refused_in_a_sentence(project, part, status):
    client = browser(project)
    body = json.dumps(sent(first(client)))[:-1] + f", {part}}}"
    answer = client.post("/api/answer", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status and "\n" not in answer.json()["detail"], answer.text
    assert project.store.last() == 0


def test_the_same_uid_with_another_answer_is_a_conflict(project):
    client = browser(project)
    one = sent(first(client))
    assert client.post("/api/answer", json=one).status_code == 200
    assert client.post("/api/answer", json=one | {"value": {"choice": "second"}}).status_code == 409


@pytest.mark.parametrize("path", ["/media/a%00b.mp4", "/media/" + "g" * 32 + ".mp4"])
def test_a_name_that_is_no_clip_never_reaches_the_database(project, path, monkeypatch):
    monkeypatch.setattr(project.store, "clips", lambda ids: pytest.fail("it was asked"))
    assert browser(project).get(path).status_code == 404


def test_no_password_is_shown_and_raters_hear_no_address(linking, monkeypatch):
    shared, tokens = linking
    ada, me = browser(shared, tokens["ada"]), browser(shared, tokens["me"])
    question = first(ada)

    def fails(*_, **__):
        raise Unavailable(f"the database of answers at {SECRET} refused")

    monkeypatch.setattr(shared.store, "append_each", fails)
    monkeypatch.setattr(shared.store, "counts", fails)
    answer = ada.post("/api/answer", json=sent(question))
    assert answer.status_code == 503 and "db/" not in answer.text and "s3cret" not in answer.text
    answer = me.get("/api/stats")
    assert answer.status_code == 503 and "labels:***@db" in answer.text and "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at {SECRET} refused", "at postgresql+psycopg://labels:***@db/labels refused"),
        ("a://u:p@ss@h/d", "a://u:***@h/d"), ("a://h/d?user=u&password=x&b=1", "a://h/d?user=u&password=***&b=1"),
        ("sqlite:///labels.sqlite", "sqlite:///labels.sqlite"), ("http://localhost:8000/", "http://localhost:8000/"),
    ],
)  # fmt: skip
def test_passwords_in_addresses(text, shown):
    assert hide_passwords(text) == shown


def test_practice_can_be_skipped_and_one_skipped_question_locks_nobody_out(project, data):
    known = {"purpose": "practice", "wanted": 99, "priority": 1.0, "expected": 1.0}
    project.store.ask(pairs(data[1], [[9, 40], [12, 43]], **known), project.dataset)
    client = browser(project)
    got = client.post("/api/next", json={"n": 5}).json()
    assert got["practice"] == {"asked": 2, "answered": 0, "right": 0} and len(got["questions"]) == 2
    one, other = (question["question"] for question in got["questions"])
    client.post("/api/answer", json=sent(one, kind="pass", value=None))
    client.post("/api/answer", json=sent(other, value={"choice": "second"}))
    got = client.post("/api/next", json={"n": 5}).json()
    assert got["practice"] is None and [q["purpose"] for q in got["questions"]] == [None] * 3
    assert (got["done"], got["left"]) == (0, 0)


def test_practice_that_is_skipped_is_over_after_a_restart_too(project, data):
    known = {"purpose": "practice", "wanted": 99, "priority": 1.0, "expected": 1.0}
    project.store.ask(pairs(data[1], [[9, 40], [12, 43]], **known), project.dataset)
    assert browser(project).post("/api/practice", json={"skip": True}).json()["practice"] is None
    again = replace(project, practiced=set())
    assert len(again.next("me", 5)["questions"]) == 3


def test_to_go_ends_at_nothing(project, data):
    gold = pairs(data[1], [[9, 40]], purpose="gold", expected=1.0, wanted=1_000_000, round=1)
    project.store.ask(gold, project.dataset)
    client = browser(project)
    seen = []
    for _ in range(5):
        got = client.post("/api/next", json={"n": 1}).json()
        seen.append((got["done"], got["left"], len(got["questions"])))
        for question in got["questions"]:
            client.post("/api/answer", json=sent(question["question"]))
    assert seen == [(0, 3, 1), (1, 2, 1), (2, 1, 1), (3, 0, 1), (4, 0, 0)]


def test_progress_keeps_up_with_other_servers_and_imports(project):
    """Another process answers, changes and takes back: what is shown follows, and nothing is counted twice."""
    from pbrl.feedback.store.answers import Answer
    from tests.feedback.examples import value

    other = Store(project.store.url)
    one, two = (leased["question"] for leased in project.next("me", 2)["questions"])
    other.append([Answer("a1", one, "me", value(1.0)), Answer("a2", two, "me", value(0.0))])
    assert project.next("me", 1)["done"] == 2
    other.append([Answer("a3", one, "me", value(0.0))])
    assert project.next("me", 1)["done"] == 2, "one answer stands for another"
    other.append([Answer("a4", one, "me", kind="retract", supersedes="a3")])
    assert project.next("me", 1)["done"] == 1
    assert Project(other, project.clips, project.dataset, project.first_rows, "").next("me", 1)["done"] == 1


def test_own_answers_are_listed_and_changed(project):
    client = browser(project)
    questions = [q["question"] for q in client.post("/api/next", json={"n": 3}).json()["questions"]]
    for question, choice in zip(questions, ("first", "equal", "cant_tell"), strict=True):
        client.post("/api/answer", json=sent(question, value={"choice": choice, "note": "dim"}))
    found = client.get("/api/mine?n=2").json()
    assert found["more"] and [one["value"] for one in found["answers"]] == [
        {"choice": "cant_tell", "note": "dim"}, {"choice": "equal", "note": "dim"},
    ]  # fmt: skip
    rest = client.get(f"/api/mine?before={found['answers'][-1]['seq']}").json()
    assert [one["question"]["question"] for one in rest["answers"]] == questions[:1] and not rest["more"]
    client.post("/api/answer", json=sent(questions[0], value={"choice": "second"}))
    assert client.get("/api/mine?n=1").json()["answers"][0]["value"] == {"choice": "second"}
    assert client.get("/api/mine?before=nonsense").status_code == 422


@pytest.mark.parametrize(
    ("kind", "clips", "value"),
    [
        ("pair", 2, {"choice": "second", "strength": 2}), ("rating", 1, {"rating": 3}),
        ("ranking", 3, {"tiers": [[2], [0, 1]], "note": "x"}), ("triplet", 3, {"choice": "first"}),
        ("attributes", 2, {"attributes": {"fast": "second", "high": "cant_tell"}}),
        ("spans", 1, {"spans": [{"start": 0, "end": 8, "good": False}], "marks": []}),
    ],
)  # fmt: skip
def test_answers_are_shown_as_they_were_sent(kind, clips, value):
    assert to_json(kind, parse(kind, dict(value), clips=clips, length=8)) == value


def test_a_rater_who_answers_too_fast_waits_and_others_do_not():
    rates = Rates(2.0)
    assert [rates.wait_s("ada", 0.0) for _ in range(41)] == [0.0] * 40 + [0.5]  # 20 s of 2 a second at once
    assert rates.wait_s("bob", 0.0) == 0.0 and rates.wait_s("ada", 0.5) == 0.0


def test_too_fast_is_said_with_how_long_to_wait(project):
    client = browser(replace(project, answers_per_s=0.05))  # one at once, then one in 20 s
    question = first(client)
    assert client.post("/api/answer", json=sent(question)).status_code == 200
    answer = client.post("/api/answer", json=sent(question))
    assert answer.status_code == 429 and 19 <= int(answer.headers["Retry-After"]) <= 20


@pytest.mark.parametrize(
    ("share", "words"),
    [("ada", r"share=\[ada\]"), (["ada", "ada"], "of its own"), ([""], "no name"), (["a\nb"], "no name")],
)
def test_names_of_raters(share, words):
    with pytest.raises(UserError, match=words):
        check_names(share, "share")


def test_the_export_is_a_file(project):
    client = browser(project)
    client.post("/api/answer", json=sent(first(client)))
    answer = client.get("/export")
    assert "answers.jsonl" in answer.headers["content-disposition"]
    assert [json.loads(line)["event_label"] for line in answer.text.splitlines()] == [0.0]


def test_a_question_of_another_kind_is_served(project, data):
    clip = data[1].clips([0], 8)[0]
    project.store.ask([Question("rating", (clip,), priority=9.0)], project.dataset)
    client = browser(project)
    assert client.post("/api/answer", json=sent(first(client), value={"rating": 4})).status_code == 200
