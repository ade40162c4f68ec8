"""Triplets answered at the page, in a browser, and directly: the same answers, and so the same reward to the bit."""

import numpy as np
import pytest
import torch

from benchmarks.page_triplets import answer_at, answer_directly, labels_by
from pbrl import api
from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.data.table import Table
from pbrl.feedback.store.store import Store
from pbrl.run.build import build
from pbrl.settings import RunSettings
from tests.feedback.page.page import needs_browser, wait_for_events

pytestmark = [pytest.mark.slow, needs_browser]
COUNT, LENGTH = 8, 12


def test_triplets_answered_at_the_page_teach_what_direct_answers_teach(serve, open_page, tmp_path):
    server = serve("query.kind=triplet", f"query.count={COUNT}")
    episodes = storage.read(next(path.parent for path in (tmp_path / "data").glob("*/provenance.json")))
    random = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    table = Table(episodes, pictures=np.concatenate([episode.obs @ random for episode in episodes]))
    store, settings = Store(server.url), RunSettings.parse(
        compose_config("query.kind=triplet", f"query.length={LENGTH}", "query.held_out=0", "feedback=perfect")
    )  # fmt: skip
    teacher = build(settings.feedback)
    questions = answer_at(open_page(server), store, table, teacher, LENGTH, COUNT)
    wait_for_events(server, COUNT)
    answer_directly(store, table, teacher, settings.query, questions)
    labels = [labels_by(rater, store, table, settings.query) for rater in ("me", teacher.rater)]
    assert all(own.size == COUNT for own in labels) and len(set(labels[0].value.tolist())) > 1
    assert all(np.array_equal(getattr(labels[0], name), getattr(labels[1], name)) for name in ("starts", "value"))
    small = {"features": 16, "frames": 4, "steps": 10, "preferred": [0]}
    rewards = [api.train_reward(table, own, "rapl", seed=0, **small).label(table) for own in labels]
    assert torch.equal(*rewards) and rewards[0].std() > 0
