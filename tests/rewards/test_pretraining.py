"""Pre-training without answers: closed forms of its losses and changes of pictures, and a file by content."""

import hashlib
import json

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from pbrl.data.collect import load_dataset
from pbrl.models.augmentation import Augmentation, change_colors, shift
from pbrl.models.frozen import encode_images, load_encoder
from pbrl.models.self_supervised import VICReg, covariance, cycle_back, tcc, variance
from pbrl.pretrain import pretrain
from pbrl.rewards import pretraining
from pbrl.rewards.pictures import load_pictures
from pbrl.rewards.pretraining import Training, Videos
from pbrl.run.build import build
from pbrl.run.folder import write_provenance
from pbrl.settings import RunSettings
from pbrl.training.precision import FLOAT32
from pbrl.types import UserError
from tests.parts import config

SMALL = {"expander": [16], "embedding": 8, "videos": 2, "frames": 3, "warmup": 0, "steps": 4, "lr": 1e-3}


def recipe(**changes):
    return build({**config("reward=rapl")["reward"]["pretraining"], **SMALL, **changes}, flag="reward.pretraining")


def film(episodes: int = 4, frames: int = 5, side: int = 32) -> Videos:
    """A square that crosses the picture from left to right, in each episode at another height and in other colors."""
    random = np.random.default_rng(0)
    shown = np.zeros((episodes, frames, side, side, 3), np.uint8)
    for video in shown:
        top, color = random.integers(side - 8), random.integers(100, 256, 3)
        for t, picture in enumerate(video):
            left = round(t * (side - 8) / (frames - 1))
            picture[top : top + 8, left : left + 8] = color
    return Videos(shown.reshape(-1, side, side, 3), [frames] * episodes)


# VICReg


def test_each_term_of_vicreg():
    a = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    off_diagonal = np.cov(a.numpy().T) * (1 - np.eye(4))
    torch.testing.assert_close(covariance(a), torch.tensor((off_diagonal**2).sum() / 4, dtype=torch.float32))
    two = torch.tensor([[-0.2, -3.0], [0.2, 3.0]])  # standard deviations 0.283, below 1, and 4.24
    torch.testing.assert_close(variance(two), torch.tensor((1 - (0.08 + 1e-4) ** 0.5) / 2))
    whole = VICReg(25, 5, 1)(a, a + 0.3)
    torch.testing.assert_close(whole, 25 * torch.tensor(0.09) + 10 * variance(a) + 2 * covariance(a))


def test_views_that_agree_and_numbers_that_say_different_things_cost_nothing():
    x = torch.from_numpy(hadamard(8)[:, 1:].copy()).float()  # each has mean 0 and variance 8 / 7, and none goes along
    assert VICReg(25, 25, 1)(x, x) == 0
    torch.testing.assert_close(VICReg(0, 25, 0)(0 * x, 0 * x), torch.tensor(50 * 0.99))  # all pictures are the same


# TCC


def test_frames_cycle_back_in_videos_of_other_speeds():
    line = 3 * torch.arange(9.0)[:, None]
    time = torch.linspace(0, 1, 9)
    faster = line[::2]  # a frame between two of these is matched with both
    torch.testing.assert_close(cycle_back(line, faster, time, 0.1), time)
    torch.testing.assert_close(cycle_back(line, line.flip(0), time, 0.1), time)  # the order does not matter
    constant = torch.zeros(2, 9, 1)
    assert tcc(torch.stack([line, line]), time.expand(2, 9), 0.1) < 1e-10
    expected = (time - 0.5).square().mean()  # all frames are alike: each arrives at the mean of times
    torch.testing.assert_close(tcc(constant, time.expand(2, 9), 0.1), expected)
    one_is = tcc(torch.stack([line, 0 * line]), time.expand(2, 9), 0.1)  # line → constant → its frame at 0
    torch.testing.assert_close(one_is, (time.square().mean() + expected) / 2)


def test_tcc_is_that_of_a_loop_over_frames():
    random = torch.Generator().manual_seed(0)
    videos = torch.randn(3, 4, 2, generator=random, dtype=torch.float64)
    time = torch.rand(3, 4, generator=random, dtype=torch.float64)
    errors = []
    for u, v in ((u, v) for u in range(3) for v in range(3) if u != v):
        for i in range(4):
            alpha = torch.softmax(-(videos[u, i] - videos[v]).square().mean(1) / 0.3, 0)
            beta = torch.softmax(-((alpha @ videos[v]) - videos[u]).square().mean(1) / 0.3, 0)
            errors.append((time[u, i] - beta @ time[u]).square())
    torch.testing.assert_close(tcc(videos, time, 0.3), torch.stack(errors).mean())


def test_tcc_finds_what_tells_progress():
    """Of ten numbers one tells how far an episode is, and the others which episode it is, and noise."""
    random = torch.Generator().manual_seed(0)
    time = torch.rand(10, 12, generator=random).sort(1).values
    other = torch.randn(10, 1, 9, generator=random) + 0.3 * torch.randn(10, 12, 9, generator=random)
    videos = torch.cat([time[..., None], other], -1)
    weight = (0.3 * torch.randn(10, 4, generator=random)).requires_grad_()
    optim = torch.optim.Adam([weight], 0.04)

    def misplaced() -> float:
        """How far apart the times of frames of a video and of their nearest ones in another are, on average."""
        a, b = videos[0] @ weight, videos[1] @ weight
        return float((time[0] - time[1][torch.cdist(a, b).argmin(1)]).abs().mean())

    before = misplaced()
    for _ in range(150):
        loss = tcc(videos[2:] @ weight, time[2:], 0.1)  # of other videos
        optim.zero_grad()
        loss.backward()
        optim.step()
    assert before > 0.25 and misplaced() < 0.1, (before, misplaced())


# Pictures


def test_shifts_repeat_edges():
    pictures = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(2, 3, 4, 3)
    moved = shift(pictures, torch.tensor([1, 0]), torch.tensor([0, -2]))
    assert torch.equal(moved[0], pictures[0][[0, 0, 1]]) and torch.equal(moved[1], pictures[1][:, [2, 3, 3, 3]])


def test_colors_change_by_their_factors():
    pictures = torch.tensor([[[[200, 100, 50], [20, 40, 60]]]], dtype=torch.uint8)
    one = torch.ones(1)
    luma = [[0.299 * 200 + 0.587 * 100 + 0.114 * 50], [0.299 * 20 + 0.587 * 40 + 0.114 * 60]]
    gray = torch.tensor([[luma]])
    torch.testing.assert_close(change_colors(pictures, one, one, one), pictures.float())
    torch.testing.assert_close(change_colors(pictures, 2 * one, one, one)[0, 0, 0], torch.tensor([255.0, 200, 100]))
    torch.testing.assert_close(change_colors(pictures, one, 0 * one, one), gray.mean().expand(1, 1, 2, 3))
    torch.testing.assert_close(change_colors(pictures, one, one, 0 * one), gray.expand(1, 1, 2, 3))


def test_views_lie_within_their_bounds_and_come_from_the_generator():
    pictures = torch.full((500, 1, 1, 3), 100, dtype=torch.uint8)
    augment = Augmentation(4, 0.2, 0.0, 0.0)
    views = augment(pictures, torch.Generator().manual_seed(0))
    assert 80 <= views.min() < 85 and 115 < views.max() <= 120
    assert torch.equal(views, augment(pictures, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(Augmentation(0, 0, 0, 0)(pictures, torch.Generator()), pictures.float())


def test_frames_are_drawn_from_equal_parts_of_different_episodes():
    lengths, random = [4, 9, 6], torch.Generator().manual_seed(0)
    number = np.concatenate([100 * i + np.arange(n) for i, n in enumerate(lengths)])
    data = Videos(np.broadcast_to(number[:, None, None, None], (19, 1, 1, 3)), lengths)
    for _ in range(20):
        frames, time = data.draw(2, 3, random)
        episode, step = frames[..., 0, 0, 0] // 100, frames[..., 0, 0, 0] % 100
        length = torch.tensor(lengths)[episode]
        assert len(set(episode[:, 0].tolist())) == 2 and (episode == episode[:, :1]).all()
        assert ((step + 1) * 3 > torch.arange(3) * length).all() and (step * 3 < torch.arange(1, 4) * length).all()
        torch.testing.assert_close(time, step / (length - 1))
    assert data.draw(9, 3, random)[0].shape[:2] == (3, 3)


# Training


def test_killed_and_resumed_is_uninterrupted_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 2)
    data, update = film(), Training.update
    whole = recipe().find(data, "resnet18", tmp_path / "whole")

    def update_twice(self, *batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self, *batch)

    monkeypatch.setattr(Training, "update", update_twice)
    with pytest.raises(KeyboardInterrupt):
        recipe().find(data, "resnet18", tmp_path)
    monkeypatch.setattr(Training, "update", update)
    again = recipe().find(data, "resnet18", tmp_path)
    assert again.name == whole.name and again.read_bytes() == whole.read_bytes()
    assert list(tmp_path.glob("encoder-*")) == [again]  # and no checkpoint
    monkeypatch.setattr(Training, "update", None)  # nothing is trained again
    assert recipe().find(data, "resnet18", tmp_path) == again
    for changed in ({"steps": 5}, {"seed": 1}, {"shift": 2}):
        with pytest.raises(TypeError):
            recipe(**changed).find(data, "resnet18", tmp_path)


@pytest.mark.parametrize("encoder", ["resnet18", "vit_small"])
def test_what_is_trained_loads_and_differs_from_random_weights(encoder, tmp_path):
    data = film(2, 2)
    path = recipe(steps=1).find(data, encoder, tmp_path)
    assert not any(key.startswith(("fc.", "head.")) for key in torch.load(path, weights_only=True))
    model, weights_hash = load_encoder(encoder, str(path))
    features = encode_images(data.frames, encoder, str(path), folder=tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(features, model(torch.from_numpy(data.frames)), rtol=1e-5, atol=1e-6)
    assert list(tmp_path.glob(f"features-{encoder}-{weights_hash[:16]}-*.npy"))
    assert not np.allclose(features, encode_images(data.frames, encoder, "none", folder=tmp_path))


def test_the_command_trains_what_a_run_finds_and_the_run_notes_its_hash(tmp_path):
    pytest.importorskip("mujoco")
    flags = ["env=franka/group", "env.horizon=4", "data=styles", "data.episodes=2", "workers=0", "reward=rapl",
             "reward.encoder=resnet18", "reward.weights=simulation", "reward.image_size=32", f"data_dir={tmp_path}",
             "reward.pretraining.steps=2", "reward.pretraining.frames=2"]  # fmt: skip
    path, weights_hash = pretrain(*flags)
    assert path.parent == tmp_path and weights_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    settings = RunSettings.parse(config(*flags))
    episodes, dataset = load_dataset(settings.env, settings.data, folder=tmp_path, seed=0, workers=0)
    found = load_pictures(settings.env, settings.reward, episodes, dataset, folder=tmp_path, workers=0)
    assert found.values is not None and found.values.shape == (10, 512)
    assert list(tmp_path.glob("encoder-*.pt")) == [path]
    write_provenance(tmp_path, settings, dataset, FLOAT32, found.provenance())
    noted = json.loads((tmp_path / "versions.json").read_text())["encoder"]
    assert noted == {"name": "resnet18", "weights": weights_hash}
    with pytest.raises(UserError, match="no encoder to train: add reward=rapl"):
        pretrain("reward=image")


@pytest.mark.parametrize("weights", [{"tcc": 0}, {"vicreg": 0}])
def test_each_loss_falls(weights):
    training = Training(recipe(**weights, steps=12), "resnet18")
    batch = film().draw(2, 4, training.generator)
    losses = [training.update(*batch) for _ in range(10)]
    assert min(losses[-3:]) < 0.7 * losses[0], losses


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vicreg": 0, "tcc": 0}, "leave nothing to train by"),
        ({"videos": 1}, "TCC matches episodes with others"),
        ({"expander": []}, "an expander of a layer or more"),
        ({"videos": 1, "frames": 1, "tcc": 0}, "two frames or more"),
    ],
)
def test_recipes_that_cannot_be(changes, says):
    with pytest.raises(UserError, match=says):
        recipe(**changes)


def test_a_single_episode_has_none_to_be_matched_with(tmp_path):
    with pytest.raises(UserError, match="this data set has one: reward.pretraining.tcc=0"):
        recipe().find(film(1), "resnet18", tmp_path)
    recipe(tcc=0, steps=1).find(film(1), "resnet18", tmp_path)
