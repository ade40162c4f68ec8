"""Published answers: where they lie in our tables, and pickles that would run something."""

import pickle

import h5py
import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.table import Table
from pbrl.feedback import unirlhf
from pbrl.feedback.labels import Labels
from pbrl.feedback.questions import Question
from pbrl.feedback.read import read
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.stored import Stored
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import UserError
from tests.feedback.examples import value

NAMES = ("indices_1_domain_mujoco_env_x_num_5_len_3_ab.pkl", "indices_2_domain_mujoco_env_x_num_5_len_3_ab.pkl",
         "human_label_domain_mujoco_env_x_num_5_len_3_ab.pkl")  # fmt: skip
PT_NAMES = ("indices_num5_q3", "indices_2_num5_q3", "label_human")

ALL = {"rater": None, "count": None, "aggregate": False, "attribute": None, "strengths": None}


def data_file(path, with_next: bool = False):
    """Steps numbered by their observation; episodes of ten, each ended by a timeout that D4RL's list leaves out.

    Only with next observations is it known where the timeout's step led, and the episode has it.
    """
    obs = np.arange(40, dtype=np.float32)[:, None]
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"], file["rewards"] = obs, np.zeros((40, 1), np.float32), obs[:, 0]
        if with_next:
            file["next_observations"] = obs + 1
        file["terminals"], file["timeouts"] = np.zeros(40, bool), np.arange(40) % 10 == 9
    return path


def pickles(folder, names=NAMES, protocol=4, **changes):
    folder.mkdir(parents=True)
    parts = {"first": np.array([0, 9, 18, 7, 34]), "second": np.array([5, 0, 12, 0, 3]), "label": [0, 1, -1, 1, 0]}
    for name, part in zip(names, (parts | changes).values(), strict=True):
        (folder / name).write_bytes(pickle.dumps(part, protocol))
    return folder


def query(**changes):
    settings = {"kind": "pair", "count": 9, "rounds": 1, "length": 3, "span": 2, "strategy": "uniform", "candidates": 1,
                "per_list": 1, "held_out": 0.0, "seed": 0}  # fmt: skip
    return Query(**settings | changes)


def read_stored(store: Store, table: Table, **changes) -> Labels:
    """The labels of a run that learns from stored answers."""
    source, asked = Stored(**ALL | changes), query()
    source.check(asked, None)  # type: ignore[arg-type]
    source.start(Context(store, table, asked, data_dir=None))  # type: ignore[arg-type]
    return read(store, table, asked, source.selection)[0]


@pytest.mark.parametrize("names", [NAMES, PT_NAMES])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_answers_lie_where_they_were_given(tmp_path, names, protocol):
    """Nine transitions an episode are listed, so places count in nines and rows in tens."""
    data, folder = data_file(tmp_path / "x.hdf5"), pickles(tmp_path / "x_human_labels", names, protocol)
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    for _ in range(2):  # again is no more
        assert unirlhf.import_answers(folder, data, store) == (3, 2)  # 7 crosses an end, 34 + 3 lies beyond the list
    table = Table(episodes.read(data))
    found = read_stored(store, table)
    assert table.obs[found.starts, 0].tolist() == [[0, 5], [10, 0], [20, 13]]
    assert found.value.tolist() == [0.0, 1.0, 0.5] and found.raters == (folder.name,)
    assert [a.value.outcome for a in store.answers() if a.value] == ["answer", "answer", "tie"]


def test_answers_go_out_as_they_came(tmp_path):
    data, folder = data_file(tmp_path / "x.hdf5"), pickles(tmp_path / "came")
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    unirlhf.import_answers(folder, data, store)
    assert unirlhf.export_answers(store, data, tmp_path / "went", 3) == (3, 0)
    came, went = unirlhf.read(folder), unirlhf.read(tmp_path / "went")
    assert went.length == 3 and went.label.tolist() == [0.0, 1.0, 0.5]
    assert went.starts.tolist() == [s for s in came.starts.tolist() if s in ([0, 5], [9, 0], [18, 12])]
    store.add_rater("ada", "human")
    data = data_file(tmp_path / "y.hdf5", with_next=True)
    unirlhf.import_answers(folder, data, store)
    clips = Table(episodes.read(data)).clips(np.array([7, 0, 1, 2]), 3)
    ids = store.ask([Question("pair", (clips[i], clips[i + 1]), round=1, position=i) for i in (0, 2)])
    store.append([Answer(q, q, "ada", value(label)) for q, label in zip(ids, (1.0, None), strict=True)])
    assert unirlhf.export_answers(store, data, tmp_path / "more", 3) == (3, 2), "7 needs a timeout's step; a skip"
    with pytest.raises(UserError, match="not there yet"):
        unirlhf.export_answers(store, data, tmp_path / "more", 3)
    with pytest.raises(UserError, match="no answers to pairs of 7 steps"):
        unirlhf.export_answers(store, data, tmp_path / "none", 7)


def test_other_answers_under_the_same_name_are_refused(tmp_path):
    data, store = data_file(tmp_path / "x.hdf5"), Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    unirlhf.import_answers(pickles(tmp_path / "a" / "labels"), data, store)
    with pytest.raises(UserError, match="answers of labels are in the store already, and others: rename"):
        unirlhf.import_answers(pickles(tmp_path / "b" / "labels", label=[1, 1, -1, 1, 0]), data, store)
    assert len(store.answers()) == 3


def test_two_columns_are_probabilities(tmp_path):
    folder = pickles(tmp_path / "x", label=np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 1], [1, 0]]))
    assert unirlhf.read(folder).label.tolist() == [0.0, 1.0, 0.5, 1.0, 0.0]


class Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('harm').touch()",))


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, label in enumerate((Evil(), [0, 1, Evil()], np.array([0, Evil()], object))):
        with pytest.raises(UserError, match="asks to run builtins.exec|arrays of object"):
            unirlhf.read(pickles(tmp_path / str(i), label=label))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("changes,sentence", [
    ({"label": [0, 1, 2, 0, 1]}, "human_label.*entry 2: 2.* is not 0, 1 or -1"),
    ({"label": [0, 1, np.nan, 0, 1]}, "human_label.*entry 2: nan is not 0, 1 or -1"),
    ({"label": np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 0]])}, "entry 1: .1 1. is not the probabilities"),
    ({"second": np.array([5, 0.5, 12, 0, 3])}, "indices_2_.*entry 1: 0.5 is not the place of a transition"),
    ({"second": np.array([5, 0, np.nan, 0, 3])}, "indices_2_.*entry 2: nan is not the place"),
    ({"first": np.array([0, 9, 18, 7, 1e300])}, "indices_1_.*entry 4: 1e.300 is not the place"),
    ({"label": [0, 1]}, "equally long"),
    ({"label": ["left"] * 5}, "no numbers"),
    ({"label": np.array([0, 1, 0, 1, None], object)}, "arrays of object"),
    ({"first": np.array([-3, 0, 0, 0, 0])}, "indices_1_.*entry 0: -3 is not the place"),
])  # fmt: skip
def test_odd_answers_get_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        unirlhf.read(pickles(tmp_path / "x", **changes))


def test_odd_files_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match="0 × indices_1_"):
        unirlhf.read(tmp_path / "nowhere")
    folder = pickles(tmp_path / "x")
    (folder / NAMES[2]).write_bytes(b"\x80\x04garbage")
    with pytest.raises(UserError, match="no pickle"):
        unirlhf.read(folder)
    with pytest.raises(UserError, match="how long"):
        unirlhf.read(pickles(tmp_path / "y", ("indices_num5", "indices_2_num5", "label_human")))
    far = pickles(tmp_path / "z", first=np.full(5, 900), second=np.full(5, 900))
    with pytest.raises(UserError, match="another data set"):
        unirlhf.import_answers(far, data_file(tmp_path / "x.hdf5"), Store(f"sqlite:///{tmp_path / 'a.sqlite'}"))


def test_an_error_lists_the_stored_answers(tmp_path):
    data, store = data_file(tmp_path / "x.hdf5"), Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    unirlhf.import_answers(pickles(tmp_path / "x_human_labels"), data, store)
    table = Table(episodes.read(data))
    assert read_stored(store, table, rater="x_human_labels", count=2).size == 2
    with pytest.raises(UserError, match="by eve"):
        read_stored(store, table, rater="eve")
    source = Stored(**ALL)
    with pytest.raises(UserError, match="holds 3 × pair of 3 steps"):
        source.start(Context(store, table, query(length=8), data_dir=tmp_path))
    another = Table([e._replace(obs=e.obs + 1) for e in episodes.read(data)])
    with pytest.raises(UserError, match="none about it"):
        source.start(Context(store, another, query(), data_dir=tmp_path))
    with pytest.raises(UserError, match="query.rounds=1"):
        source.check(query(rounds=2), None)  # type: ignore[arg-type]
