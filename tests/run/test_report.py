"""The report of a run: every number in it is one of the run's, and it can be read by everybody and opened anywhere."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import unquote

import pytest

from pbrl.configs import compose_config
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.run import outcome, page, report, summary
from pbrl.run import train as run
from pbrl.run.answers import rater_rows
from pbrl.training import log
from pbrl.types import Clip, UserError
from tests.browser import CHROMIUM
from tests.run.test_command import SMALL

EVIL = '<img src=x onerror="document.title=1">'
IQL = [
    "algo=iql",
    "algo.hidden=[8]",
    "reward=ensemble",
    "reward.steps=10",
    "reward.hidden=[8]",
    "query.rounds=2",
    "query.count=40",
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`")


class Page(HTMLParser):
    """A page as a reader finds it: rows of tables by their first cell with `<data>` values, settings, links, text."""

    VOID = {"meta", "input", "br", "img", "link"}

    def __init__(self, path: Path):
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self.settings: dict[str, list[str]] = {}
        self.values: dict[str, list[float]] = {}
        self.tags: list[tuple[str, dict]] = []
        self.text, self.open, self.row = "", [], None
        self.feed(path.read_text())
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.into = self.settings if found.get("id") == "all-settings" else self.rows
        if tag == "tr":
            self.row = []
            self.numbers = []
        if tag in ("th", "td") and self.row is not None:
            self.row.append("")
        if tag == "data" and self.row is not None:
            self.numbers.append(float(found["value"]))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "tr":
            name = " ".join(self.row[0].split())
            self.into[name] = [" ".join(cell.split()) for cell in self.row[1:]]
            self.values.setdefault(name, self.numbers)
            self.row = None

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += text
            if self.row:
                self.row[-1] += text


def train(folder: Path, *flags: str) -> dict:
    flags = tuple(flag for flag in SMALL if flag.partition("=")[0] not in {f.partition("=")[0] for f in flags}) + flags
    flags = tuple(flag for flag in flags if not ("algo=iql" in flags and flag.startswith("algo.pretrain")))
    config = compose_config(*flags, "query.length=8")
    return run.train({**config, "run": str(folder), "data_dir": str(folder.parent / "data")})


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run with an odd name and a baseline, and one of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "one <b> & 'two'", *IQL, "compare=true", "store=null")
    train(folder / "several", "seeds=2", "seed=3", "compare=true")
    return folder


@pytest.fixture(scope="module")
def one(runs) -> Path:
    return runs / "one <b> & 'two'"


def test_the_numbers_are_the_results(one):
    result, shown = json.loads((one / "result.json").read_text()), Page(one / "index.html")
    rows = {"policy": result["policy"]["last"], "best on the way": result["policy"]["best"],
            "baseline (BC)": result["bc"]["last"], "data": result["data"]}  # fmt: skip
    for name, event in rows.items():
        assert shown.values[name] == [event["success"], event["return_mean"]]
        low, high = event["success_interval"]
        assert shown.rows[name][:2] == [f"{event['success']:.0%}", f"{low:.0%} to {high:.0%}"]
        assert shown.rows[name][3] == str(event["episodes"])
    tiles = [float(found["value"]) for tag, found in shown.tags if tag == "data"][-5:]
    assert tiles == [
        *(result["answers"][key] for key in ("asked", "answered", "ties", "skipped")),
        result["label_accuracy"],
    ]
    for event in log.read(one, "held_out"):
        assert shown.rows[str(event["round"])][0] == f"{event['held_out_accuracy']:.4g}"


def test_the_settings_are_the_config_and_their_differences_are_marked(one):
    shown = Page(one / "index.html")
    expectile = outcome.read(one).config["algo"]["expectile"]
    assert shown.settings["algo.expectile"][:2] == [str(expectile), "same"]
    assert shown.settings["steps"][:2] == ["10 changed", "6000"]
    assert shown.settings["algo"][:2] == ["iql changed", "cpl"]
    assert shown.settings["query.count"] == ["40 changed", "800", "questions"]


def test_the_raters_are_those_of_the_store(one):
    shown, store = Page(one / "index.html"), Store(f"sqlite:///{one / 'answers.sqlite'}")
    counts = store.counts()
    [(name, cells)] = [(name, cells) for name, cells in shown.rows.items() if name.startswith("scripted-")]
    assert cells == [str(counts["answered"]), str(counts["ties"]), str(counts["skipped"]), "–"]


def test_of_a_shared_store_only_answers_about_the_runs_episodes_count(one, tmp_path):
    folder, before = tmp_path / "run", rater_rows(outcome.read(one))
    shutil.copytree(one, folder)
    store = Store(f"sqlite:///{folder / 'answers.sqlite'}")
    store.add_rater("eve", "human")
    elsewhere = Question("pair", (Clip("another", 0, 8), Clip("another", 8, 8)))
    store.append([Answer("elsewhere", store.ask([elsewhere])[0], "eve", Value("answer", 1.0))])
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("store: null", f"store: {store.url}"))
    assert rater_rows(outcome.read(folder)) == before and len(before) == 1
    (folder / "start.json").write_text("{}")  # of a version that did not say which data set
    assert [row["name"] for row in rater_rows(outcome.read(folder))] == [before[0]["name"], "eve"]


def test_nothing_is_loaded_from_elsewhere_and_every_link_leads_somewhere(one):
    shown = Page(one / "index.html")
    ids = {found["id"] for _, found in shown.tags if found.get("id")}
    links = [found.get("href") or found.get("src") or found.get("xlink:href") for _, found in shown.tags]
    for link in filter(None, links):
        assert link[1:] in ids if link.startswith("#") else (one / unquote(link.partition("#")[0])).exists(), link
    text = (one / "index.html").read_text()
    assert not re.search(r'(src|href)="(https?:)?//', text) and "@import" not in text
    assert len(text) < 300_000


def test_whatever_is_in_a_folder_is_escaped(one, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    found = Store(f"sqlite:///{folder / 'answers.sqlite'}")
    dataset = outcome.read(folder).versions["data"]
    asked = found.questions([found.answers()[0].question])
    question = replace(next(iter(asked.values())), round=9)
    found.ask([question])
    found.add_rater(EVIL, "script")
    found.append([Answer("1", question.id, EVIL, Value("answer", 1.0, None))])
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(r"^device: .*$", f"device: '{EVIL}'", config, flags=re.M))
    (folder / "versions.json").write_text(json.dumps({"git": EVIL, "data": dataset}))
    shown = Page(report.write_page(folder))
    assert EVIL in shown.rows and shown.settings["device"][0] == f"{EVIL} changed"
    assert not any("onerror" in found for _, found in shown.tags) and shown.text.count(EVIL) == 3
    assert "one <b> & 'two'" in Page(one / "index.html").text


def test_a_password_is_not_shown(one, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    config = (folder / "config.yaml").read_text()
    url = "postgresql+psycopg://anna:s3cret@127.0.0.1:1/answers"
    (folder / "config.yaml").write_text(config.replace("store: null", f"store: {url}"))
    (folder / "answers.sqlite").unlink()
    text = report.write_page(folder).read_text()  # the server is not there, and the report is made all the same
    assert "s3cret" not in text and "anna:***@127.0.0.1" in text


def test_of_several_seeds_all_are_shown(runs):
    folder, shown = runs / "several", Page(runs / "several" / "index.html")
    results = json.loads((folder / "result.json").read_text())["seeds"]
    for result in results:
        name = f"seed {result['seed']}, "
        assert shown.values[name + "policy"][0] == result["policy"]["last"]["success"]
        assert shown.values[name + "baseline (BC)"][1] == result["bc"]["last"]["return_mean"]
        assert shown.values[name + "before preferences"][1] == result["policy"]["clone"]["return_mean"]
    last = [result["policy"]["last"]["success"] for result in results]
    values = [float(found["value"]) for tag, found in shown.tags if tag == "data"]
    assert values[:2] == [mean(last), stdev(last)]
    assert Page(report.write_page(folder / "seed3")).values["policy"][0] == last[0]  # a seed's folder is a run's too
    assert Page(folder / "seed3" / "index.html").values["baseline (BC)"][0] == results[0]["bc"]["last"]["success"]


def test_a_run_that_has_not_ended(one, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    for name in ("result.json", "curve.png", "index.html"):
        (folder / name).unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if json.loads(line)["phase"] == "policy")
    (folder / "metrics.jsonl").write_text("".join(lines[: first + 1]) + '{"phase": "pol')
    shown = Page(report.write_page(folder))
    assert "not finished: 5 of 10 updates" in " ".join(shown.text.split()) and "policy so far" not in shown.rows
    start = json.loads((folder / "start.json").read_text())
    assert shown.values["data"][0] == start["evaluation"]["success"]
    (folder / "metrics.jsonl").unlink()  # not even begun
    assert "0 of 10 updates" in " ".join(Page(report.write_page(folder)).text.split())


def test_a_header_of_one_screen(tmp_path, capsys):
    train(tmp_path / "run", *IQL)
    lines = capsys.readouterr().out.splitlines()
    names = [line[: summary.WIDTH].strip() for line in lines[:8]]
    assert names == ["run", "task", "data", "answers", "reward", "policy", "baseline", "device"]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert f"{result['data']['episodes']} episodes" in lines[2] and "40 × pair" in lines[3] and "10 updates" in lines[5]
    assert f"iql{'':18}success {result['policy']['last']['success']:.0%}" in "\n".join(lines)
    assert any(line.startswith("  report") and line.endswith("index.html") for line in lines) and len(lines) < 24


def test_runs_side_by_side(runs, tmp_path):
    train(tmp_path / "a" / "other", "seed=5", "compare=false")
    found = [outcome.read(folder) for folder in (*outcome.find(runs), *outcome.find(tmp_path / "a"))]
    shown = Page(page.write_comparison(found, tmp_path / "compare.html"))
    results = [*json.loads((runs / "several/result.json").read_text())["seeds"],
               json.loads((tmp_path / "a/other/result.json").read_text())]  # fmt: skip
    last = [result["policy"]["last"]["success"] for result in results]
    [cpl] = [name for name in shown.rows if "algo=cpl" in name]
    [iql] = [name for name in shown.rows if "algo=iql" in name]
    assert shown.rows[cpl][0] == "3" and shown.values[cpl][:2] == [mean(last), stdev(last)]
    assert "reward=ensemble" in iql and "seed" not in cpl
    one = json.loads(next(runs.glob("one*/result.json")).read_text())
    assert shown.values[iql][0] == one["policy"]["last"]["success"]
    assert len([tag for tag, found in shown.tags if tag == "a"]) == 3


def test_the_same_seed_twice_counts_once(runs, tmp_path):
    shutil.copytree(runs / "several", tmp_path / "copy")
    found = [outcome.read(runs / "several"), outcome.read(tmp_path / "copy")]
    [row] = [
        cells for cells in Page(page.write_comparison(found, tmp_path / "c.html")).rows.values() if cells[0].isdigit()
    ]
    assert row[0] == "2"


@pytest.mark.parametrize("text", ["", "a: 1", "[1, 2"])
def test_a_folder_that_is_no_run(tmp_path, text):
    with pytest.raises(UserError, match="holds no run"):
        outcome.find(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config"):
        report.write_page(tmp_path)


@needs_browser
def test_in_a_browser_on_a_phone_and_in_the_dark(runs, one, tmp_path):
    """No errors, nothing wider than the screen, nothing that axe-core minds; the search shows what it finds."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    several = [outcome.read(folder) for folder in outcome.find(runs)]
    compare = page.write_comparison(several, tmp_path / "compare.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for path in (one / "index.html", runs / "several" / "index.html", compare):
            for scheme, width in (("light", 1200), ("dark", 390)):
                tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                errors: list[str] = []
                tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
                tab.goto(path.as_uri())
                found = Axe().run(tab)
                assert found.violations_count == 0, found.generate_report()
                assert tab.evaluate("document.documentElement.scrollWidth") <= width and not errors
                tab.close()
        tab = browser.new_page()
        tab.goto((one / "index.html").as_uri())
        rows = tab.locator("#all-settings tbody tr:visible")
        total = tab.locator("#all-settings tbody tr").count()
        assert rows.count() == tab.locator("#all-settings tr.differs").count() < total
        tab.fill("#find", "algo.expectile")
        assert rows.count() == 1 and "1 of" in tab.inner_text("#shown")
        tab.fill("#find", "")
        assert rows.count() == total
        browser.close()
