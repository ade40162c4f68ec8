"""`--dry-run` sends nothing, and says what the questions that are left would cost."""

import re
import socket

import pytest

from benchmarks import simulated_judge
from pbrl.configs import compose_config
from pbrl.data import episodes as files
from pbrl.data.table import Table
from pbrl.feedback.kinds import Value
from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import Wish, find_open, lease, lease_each
from pbrl.feedback.store.store import Store
from pbrl.label.by_model import label
from pbrl.label.command import CommandLine
from pbrl.vlm.judging import make_judge
from pbrl.vlm.messages import Request
from pbrl.vlm.settings import Settings
from tests import toy
from tests.vlm.labelling import draw
from tests.vlm.scripted import TASK, question, view

PRICE = {"input": 2000.0, "output": 10000.0}
COUNT = 5
GIVEN = CommandLine((), "tests/point", "file")
SAID = re.compile(
    r"(\d+) questions are open, (\d+) requests each, (\d+) pictures .*\n"
    r"about ([\d,]+) tokens of prompts and at most ([\d,]+) of replies; \$([\d.]+)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("data")
    files.write(found / "point", toy.episodes(6), {})
    return found


@pytest.fixture(scope="module")
def judge(folder):
    (folder / "key.jsonl").touch()
    running = simulated_judge.start(folder / "key.jsonl")
    config, table = command(folder, "none", running.base_url), Table(files.read(folder / "point"))
    source = {"env": config["env"], "data": config["data"], "folder": folder, "seed": 0, "workers": 0}
    draw(source, table, Settings.parse(config["vlm"]), table.clips(table.segment_starts(4).numpy(), 4))
    yield running
    running.stop()


def command(folder, name: str, base_url: str, *more: str) -> dict:
    return compose_config(
        "env=tests/point", "hydra.searchpath=[file://tests/configs]", "data=file", f"data.path={folder / 'point'}",
        f"store=sqlite:///{folder / name}.sqlite", f"data_dir={folder}", f"query.count={COUNT}", "query.length=4",
        "vlm.task=go home", f"vlm.base_url={base_url}", f"vlm.answer_key={folder / 'key.jsonl'}", "vlm.view=frame",
        f"vlm.cache={folder / 'cache'}", "vlm.size=32", "workers=0",
        f"vlm.price={{input:{PRICE['input']},output:{PRICE['output']}}}", *more, name="label_vlm",
    )  # fmt: skip


def estimated(out: str) -> tuple[float, ...]:
    """Questions, requests, pictures, tokens of prompts and of replies, and US dollars."""
    found = SAID.search(out)
    assert found, out
    return tuple(float(number.replace(",", "")) for number in found.groups())


@pytest.mark.parametrize("name", ["pair", "pair_logprob"])
def test_nothing_is_sent_and_the_price_holds(folder, judge, capsys, name):
    """At an address where each connection would be seen; then the same questions for real, at a server that counts."""
    with socket.create_server(("127.0.0.1", 0)) as seen:
        seen.setblocking(False)
        address = f"http://127.0.0.1:{seen.getsockname()[1]}/v1"
        label(command(folder, name, address, f"vlm.judge={name}", "dry_run=true"), GIVEN)
        with pytest.raises(BlockingIOError):
            seen.accept()
    questions, requests, pictures, prompt, reply, cost = estimated(capsys.readouterr().out)
    each = make_judge(name).requests(question(), [view(1.0), view(2.0)], "go home")
    assert (questions, requests, pictures) == (COUNT, len(each), 2)
    assert reply == COUNT * sum(request.max_tokens for request in each)
    assert prompt == pytest.approx(COUNT * sum(map(prompt_tokens, each)), abs=1)
    assert cost == pytest.approx((prompt * PRICE["input"] + reply * PRICE["output"]) / 1e6, abs=0.05)
    before = judge.counts()
    label(command(folder, name, judge.base_url, f"vlm.judge={name}"), GIVEN)
    after = judge.counts()
    spent = {what: after[what] - before[what] for what in after}
    assert spent["requests"] == questions * requests and spent["reply_tokens"] < reply
    longest = 0 if name == "pair_logprob" else COUNT * 2 * make_judge(name).max_tokens  # of what the second stage reads
    assert prompt - longest <= 1.02 * spent["prompt_tokens"] and spent["prompt_tokens"] <= 1.02 * prompt
    capsys.readouterr()
    label(command(folder, name, judge.base_url, f"vlm.judge={name}", "dry_run=true"), GIVEN)
    assert "nothing would be asked" in capsys.readouterr().out and judge.counts() == after


def prompt_tokens(request: Request) -> float:
    """By hand: four letters a token, 300 tokens a picture."""
    return sum(len(part) for part in request.parts if isinstance(part, str)) / 4 + 300 * len(request.pictures)


def test_what_this_model_would_not_be_asked_is_not_priced(folder, judge, capsys):
    """Questions that it has answered, that are people's alone, or of a kind that it cannot judge."""
    flags = [folder, "left", judge.base_url, "vlm.judge=pair_logprob", f"vlm.model={simulated_judge.MODEL}"]
    label(command(*flags, "wanted=2"), GIVEN)
    capsys.readouterr()
    label(command(*flags, "dry_run=true", "wanted=2"), GIVEN)
    assert "nothing would be asked" in capsys.readouterr().out, "a second answer is another rater's"
    label(command(*flags, "dry_run=true", "wanted=2", "vlm.swap=false"), GIVEN)
    assert estimated(capsys.readouterr().out)[:2] == (COUNT, 1), "with other settings it is another rater"
    store, table = Store(f"sqlite:///{folder / 'left'}.sqlite"), Table(files.read(folder / "point"))
    clips = [clip for one in store.questions(find_open(store, "", "vlm")).values() for clip in one.clips[::-1]]
    dataset = store.register(table.ids)
    pairs = zip(clips[::2], clips[3::2], ("human", "vlm", None), strict=False)
    store.ask([Question("pair", (a, b), {"text": "?"}, rater_kind=kind) for a, b, kind in pairs], dataset)
    store.ask([Question("rating", clips[:1], {"text": "?"})], dataset)
    label(command(*flags, "dry_run=true", "only_answer=true"), GIVEN)
    assert estimated(capsys.readouterr().out)[0] == 2, "the one for models, and the one for any rater"


def test_what_is_open_is_what_could_be_leased(tmp_path):
    """By the lease's own rule, for raters of all kinds, with answers, passes, and leases of others between."""
    store, table = Store(f"sqlite:///{tmp_path / 'a.sqlite'}"), toy.table(6)
    starts = table.segment_starts(4).numpy()[:40].reshape(20, 2)
    kinds = (None, "vlm", "human")
    shown = [table.clips(pair, 4) for pair in starts]
    store.ask([Question("pair", tuple(clips), {"text": "?"}, wanted=1 + i % 2, rater_kind=kinds[i % 3], position=i)
               for i, clips in enumerate(shown)])  # fmt: skip
    for name, kind in (("ada", "human"), ("m", "vlm"), ("n", "vlm")):
        store.add_rater(name, kind)
    for name in ("ada", "m"):
        for one in lease(store, name, 4)[:2]:
            store.append([Answer(f"{name}-{one.id}"[:36], one.id, name, Value("answer", 1.0))])
    for name, kind in (("n", "vlm"), ("m", "vlm"), ("ada", "human")):
        left = find_open(store, name, kind)
        (handed,) = lease_each(store, [Wish(name, 99)])
        assert left == [one.id for one in handed.leased][len(handed.leased) - handed.new :] and left


def test_an_estimate_holds_the_longest_description():
    first, _, second, _ = make_judge("pair", max_tokens=100).requests(question(), [view(1.0), view(2.0)], TASK)
    short = make_judge("pair", max_tokens=1).requests(question(), [view(1.0), view(2.0)], TASK)[2]
    assert first.pictures and prompt_tokens(second) - prompt_tokens(short) == 99
