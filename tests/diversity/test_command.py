"""`python -m pbrl.diversity` from answers to pictures, on a point that waves move; stopped, it goes on the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.data.table import Table
from pbrl.diversity import command
from pbrl.diversity.command import QDHF, quality_of, search
from pbrl.diversity.settings import Settings
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from tests import toy

pytest.importorskip("ribs", reason="needs pyribs: pip install -e '.[diversity]'")
SMALL = ["data.episodes=12", "query.count=60", "query.length=30", "query.held_out=0.2", "projection.steps=60",
         "workers=0", "search.population=12", "search.iterations=4", "search.batch_size=6", "search.cells=6",
         "search.steps=null", "pictures.parts=2", "pictures.frames=2", "pictures.size=16",
         "checkpoint_every=1"]  # fmt: skip
BY = "query.attributes=[speed,right]"


def config(folder: Path, *flags: str, **changes: Any) -> dict[str, Any]:
    own = compose_config(*SMALL, f"run={folder / 'run'}", f"data_dir={folder / 'data'}", *flags, name="diversity")
    return {**own, "env": {"_target_": "tests.toy.Point"}, **changes}


def archive(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "archive.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search with a second round in its middle, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, search(config(folder, BY, "rounds=[0,0.5]"))


def test_an_archive_is_made_and_shown(whole):
    folder, result = whole[0] / "run", whole[1]
    assert json.loads((folder / "result.json").read_text()) == result
    first, second = result["rounds"]
    assert first["iteration"] == 0 and second["iteration"] == 2 and second["answers"] > first["answers"] > 0
    assert first["train_accuracy"] > 0.8 and 0 < result["coverage"] <= 1
    found = archive(folder)
    assert len(found["solutions"]) == result["elites"] and found["solutions"].shape[1] == 6
    np.testing.assert_allclose(
        (found["features"] - found["mean"]) / found["std"] @ found["weight"], found["measures"], rtol=1e-4, atol=1e-4
    )
    page = (folder / "index.html").read_text()
    assert page.count("data:image/jpeg") == len(storage.read(folder / "episodes")) <= 4
    assert "speed" in page and "right" in page and (folder / "archive.png").stat().st_size > 5000


def test_a_shown_episode_is_that_of_its_solution(whole):
    """What was saved plays again as it was rated."""
    folder = whole[0] / "run"
    returns = sorted(float(episode.reward.sum(dtype=np.float64)) for episode in storage.read(folder / "episodes"))
    assert np.isin(np.round(returns, 4), np.round(archive(folder)["quality"], 4)).all()
    assert max(returns) == pytest.approx(whole[1]["best"], rel=1e-6)


@pytest.mark.parametrize("after", [1, 3])
def test_a_search_that_was_killed_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, after):
    """Killed in the middle of a round, and after the second one had begun."""

    class Killed(Exception):
        pass

    played, rate = [], QDHF.rate

    def killed_later(self, *args):
        played.append(1)
        if len(played) > 1 + after:  # the first population, and so many iterations
            raise Killed
        return rate(self, *args)

    given = config(tmp_path, BY, "rounds=[0,0.5]", data_dir=whole[0] / "data")
    given["data_dir"] = str(whole[0] / "data")
    with monkeypatch.context() as patch:
        patch.setattr(QDHF, "rate", killed_later)
        with pytest.raises(Killed):
            search(given)
    assert not (tmp_path / "run/result.json").exists()
    assert search(given) == whole[1]
    one, other = archive(whole[0] / "run"), archive(tmp_path / "run")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_more_iterations_go_on_and_other_settings_are_refused(whole, capsys):
    given = config(whole[0], BY, "rounds=[0,0.5]", "search.iterations=6")
    before = archive(whole[0] / "run")
    assert search(given)["elites"] >= len(before["solutions"])
    search(given)
    assert command.FINISHED in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another search \(search.sigma 0.1 → 0.3\): choose another"):
        search(config(whole[0], BY, "rounds=[0,0.5]", "search.sigma=0.3"))


def test_new_answers_of_a_store_project_the_archive_anew(whole, tmp_path):
    """People's answers: by how far right, then more of them; nothing is played again."""
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    given = config(tmp_path, "feedback=stored", f"store={url}", "query.held_out=0")
    given["data_dir"] = str(whole[0] / "data")
    with pytest.raises(UserError, match="holds no answers of query.kind=triplet"):
        search(given)
    (path,) = [path for path in (whole[0] / "data").iterdir() if path.is_dir()]
    table = Table(storage.read(path))
    right = table.obs[table.segment_rows(table.segment_starts(30), 30)].mean(1)[:, 0].numpy()

    def answer(seed: int) -> None:
        random, store = np.random.default_rng(seed), Store(url)
        asked = np.stack([random.permutation(12)[:3] for _ in range(40)])
        clips = table.clips(table.segment_starts(30).numpy(), 30)
        names = store.ask([Question("triplet", tuple(clips[i] for i in own)) for own in asked])
        store.add_rater("me", "human")
        closer = [float(abs(right[c] - right[a]) < abs(right[b] - right[a])) for a, b, c in asked]
        store.append(
            [Answer(f"{seed}-{name}", name, "me", Value("answer", x)) for name, x in zip(names, closer, strict=True)]
        )

    answer(0)
    first, before = search(given), archive(tmp_path / "run")
    answer(1)
    second, after = search(given), archive(tmp_path / "run")
    assert [own["answers"] for own in second["rounds"]] == [
        first["rounds"][0]["answers"],
        second["rounds"][1]["answers"],
    ]
    assert second["rounds"][1]["answers"] > first["rounds"][0]["answers"] and second["rounds"][1]["iteration"] == 4
    assert not np.array_equal(before["weight"], after["weight"])
    assert {s.tobytes() for s in after["solutions"]} <= {s.tobytes() for s in before["solutions"]}


def test_a_learnt_reward_is_summed_over_each_episode():
    """Of members whose rewards of a step are the position, and twice as much."""

    class Reward:
        def label(self, table):
            return table.obs[:, 0][None] * np.array([[1.0], [2.0]], np.float32)

    episodes = toy.episodes(3)
    found = quality_of(episodes, Reward())  # type: ignore[arg-type]
    np.testing.assert_allclose(found, [1.5 * episode.obs[:-1, 0].sum() for episode in episodes], rtol=1e-5)
    np.testing.assert_allclose(quality_of(episodes, None), [episode.reward.sum() for episode in episodes], rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["feedback=none"], "learnt from triplets"),
        (["feedback=people"], "people answer ahead of the search"),
        (["query.attributes=[grace]"], "measures no grace"),
        (["rounds=[0.1]"], "the first is 0"),
        (["rounds=[0,0.5,0.5]"], "in rising order"),
        (["feedback=stored", "rounds=[0,0.5]"], "query.rounds=1"),
        (["waves.low_hz=4"], "lies above high_hz"),
        (["waves.size=2"], "waves.size=2"),
        (["search.emitter=other"], "gaussian or line or cma"),
        (["search.cells=1"], "search.cells=1"),
        (["search.quality=nowhere"], "is no run folder"),
        (["query.length=31"], "no episode is 31 steps long"),
        (["objective=plackett_luce"], "of no triplets"),
        (["+search.elite=1"], "search has no elite"),
        (["query.count=0"], "query.count=0"),
        (["objective=kto"], "of no triplets"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(whole, tmp_path, flags, words):
    given = config(tmp_path, *flags)
    given["data_dir"] = str(whole[0] / "data")
    with pytest.raises(UserError, match=words):
        search(given)


def test_the_iterations_are_no_part_of_what_a_search_is(tmp_path):
    one, more, other = (
        Settings.parse(config(tmp_path, *flags)) for flags in ((), ("search.iterations=9",), ("search.cells=9",))
    )
    assert one.identity == more.identity != other.identity
