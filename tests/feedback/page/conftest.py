"""A project on the point world, for the tests of the page's server."""

import numpy as np
import pytest

from pbrl.data import episodes as files
from pbrl.data.table import Table
from pbrl.feedback.page.clips import Clips, Look, Renderers
from pbrl.feedback.page.project import Project, first_rows
from pbrl.feedback.questions import Question
from pbrl.feedback.store.store import Store
from tests import toy

POINT = {"_target_": "tests.toy.Point"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "point"
    files.write(path, toy.episodes(6), {})
    source = {"env": POINT, "data": {"path": str(path)}, "folder": path.parent, "seed": 0, "workers": 0}
    return source, Table(files.read(path))


def pairs(table: Table, starts, **more) -> list[Question]:
    """Pairs of clips that begin at these rows, of eight steps."""
    clips = table.clips(np.ravel(starts), 8)
    return [
        Question("pair", (a, b), {"text": "Which?"}, **{"position": i, **more})
        for i, (a, b) in enumerate(zip(clips[::2], clips[1::2], strict=True))
    ]


@pytest.fixture
def renderers(data):
    renderers = Renderers(data[0])
    yield renderers
    renderers.close()


@pytest.fixture
def project(data, renderers, tmp_path):
    table = data[1]
    clips = Clips(renderers, tmp_path / "clips", look=Look(64, 10), limit_mb=10)
    store = Store(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    dataset = store.register(table.ids)
    store.ask(pairs(table, [[0, 31], [62, 5], [3, 33]]), dataset)
    return Project(store, clips, dataset, first_rows(table), "Watch.")
