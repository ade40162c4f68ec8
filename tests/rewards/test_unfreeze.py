"""reward.unfreeze: the last block of an encoder learns, the rest is kept, and with a rate of 0 nothing changes."""

import numpy as np
import pytest
import torch
from torch import nn

from pbrl.data.collect import load_dataset
from pbrl.data.table import Table
from pbrl.models import last_block
from pbrl.models.frozen import ENCODERS, encode_images, load_encoder
from pbrl.models.last_block import LastBlock, features_of
from pbrl.rewards.pictures import load_pictures
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.types import Episode, UserError
from tests.parts import build, config, labels

LAST = {  # prefixes of the parameters that learn
    "lite0": ("_blocks.15.", "_conv_head.", "_bn1."),
    "resnet18": ("layer4.1.",),
    "vit_small": ("blocks.11.", "norm."),
    "mvp_small": ("blocks.11.", "norm."),
}
STEPS, N, CPU = 5, 8, torch.device("cpu")
MAPS = np.random.default_rng(0).uniform(size=(N * (STEPS + 1), 512, 1, 1)).astype(np.float32)  # of 32 pixels
SMALL = {
    "rapl": {"frames": 3, "embedding": 8, "preferred": [0, 1]},
    "image": {"frames": 3, "members": 2, "hidden": [8]},
}


def make_reward(name: str, **changes):
    torch.manual_seed(0)
    given = {"encoder": "resnet18", "weights": "none", "batch_size": 6, **SMALL[name]}
    return build(f"reward/{name}", **{**given, "unfreeze": True, **changes})


def make_data(pictures: np.ndarray = MAPS) -> Data:
    zeros = np.zeros((STEPS + 1, 1), np.float32)
    table = Table([Episode(i, zeros + i, zeros[1:], zeros[1:, 0], False) for i in range(N)], pictures=pictures)
    starts = table.opening.unique().numpy()
    asked = np.stack([np.random.default_rng(i).permutation(starts)[:3] for i in range(20)])
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(labels("triplet", asked, np.random.default_rng(0).choice([0.0, 1.0], 20), length=STEPS))
    return data


def pairs(data: Data) -> Data:
    found = data.labels
    assert found is not None
    data.set_labels(found._replace(kind="pair", starts=found.starts[:, :2]))
    return data


def data_for(name: str, pictures: np.ndarray = MAPS) -> Data:
    return make_data(pictures) if name == "rapl" else pairs(make_data(pictures))


def train(model, data: Data, steps: int = 3):
    for phase in model.phases():
        if phase.before:
            phase.before(data)
        for _ in range(min(steps, phase.steps)):
            phase.update(phase.draw(data))
    return model


def spread(reward: torch.Tensor) -> torch.Tensor:
    """Without the offset, of which comparisons say nothing and Adam makes what rounding does."""
    return reward - reward.mean(1, keepdim=True)


# What is kept, and what learns


@pytest.mark.parametrize("name", ENCODERS)
def test_the_block_on_what_is_kept_is_the_encoder_and_has_its_gradient(name, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 32, 3), dtype=np.uint8)
    network, _ = load_encoder(name, "none")
    maps = torch.from_numpy(encode_images(images, name, "none", folder=tmp_path, unfreeze=True))
    whole = network(torch.from_numpy(images))
    block = LastBlock(name, "none", 1e-3)
    block.check(maps)
    found = block(maps)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-6)
    target = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    (found * target).sum().backward()
    (whole * target).sum().backward()
    names = [key for key, _ in network.named_parameters() if key.startswith(LAST[name])]
    assert len(names) == len(list(block.parameters()))
    for key, own in zip(names, block.parameters(), strict=True):
        expected = network.get_parameter(key).grad
        assert expected is not None and own.grad is not None and expected.abs().max() > 0, key
        torch.testing.assert_close(own.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()), msg=key)
    monkeypatch.setattr(ENCODERS[name], "trunk", None)  # nothing is encoded again
    np.testing.assert_array_equal(encode_images(images, name, "none", folder=tmp_path, unfreeze=True), maps)


@pytest.mark.parametrize("name", SMALL)
def test_a_rate_of_zero_is_a_frozen_encoder_and_another_moves_the_block_alone(name):
    frozen_block = LastBlock("resnet18", "none", 0.0)
    features = features_of(frozen_block, torch.from_numpy(MAPS), CPU)
    frozen = train(make_reward(name, unfreeze=False), data_for(name, features.numpy()))
    still = train(make_reward(name, unfreeze_lr=0.0), data_for(name))
    begun = dict(frozen_block.block.state_dict())
    assert all(torch.equal(value, begun[key]) for key, value in still.block.block.state_dict().items())
    data = data_for(name)
    expected = spread(frozen.label(data_for(name, features.numpy()).table))
    torch.testing.assert_close(spread(still.label(data.table)), expected, rtol=1e-3, atol=1e-5)
    moved = train(make_reward(name, unfreeze_lr=1e-3), data_for(name))
    assert not torch.allclose(spread(moved.label(data.table)), expected, rtol=1e-2)
    for key, value in moved.block.block.state_dict().items():
        assert torch.equal(value, begun[key]) == ("running" in key or "batches" in key), key


@pytest.mark.parametrize("name", SMALL)
def test_killed_and_resumed_is_uninterrupted(name):
    data, more = data_for(name), data_for(name)
    model = train(make_reward(name), data)
    again = make_reward(name)
    again.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    more.generator.set_state(data.generator.get_state())
    for one, own in ((model, data), (again, more)):
        train(one, own, 2)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert torch.equal(model.label(data.table), again.label(data.table)) and model.block.optim.count == 5


def test_a_batch_in_parts_is_one_batch(monkeypatch):
    found = []
    for size in (10**6, 9 * 512):  # a triplet of three frames each
        monkeypatch.setattr(last_block, "AT_ONCE", size)
        model, data = make_reward("rapl"), make_data()
        model.measure(data)
        metrics = model.update(model.draw(data))
        found.append((metrics["loss"], model.optim.first, model.block.optim.first))
    for one, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, one, rtol=1e-3, atol=1e-5 * float(one.abs().max()))


def test_a_run_reads_what_the_block_sees(tmp_path):
    pytest.importorskip("pymunk")
    flags = ["env=magical/grouping", "env.horizon=4", "data=styles", "data.episodes=2", "data.behaviour.styles=[{}]",
             "reward=rapl", "reward.encoder=resnet18", "reward.weights=none", "reward.image_size=64",
             "reward.unfreeze=true", f"data_dir={tmp_path}", "workers=0"]  # fmt: skip
    settings = RunSettings.parse(config(*flags))
    episodes, dataset = load_dataset(settings.env, settings.data, folder=tmp_path, seed=0, workers=0)
    found = load_pictures(settings.env, settings.reward, episodes, dataset, folder=tmp_path, workers=0)
    assert found.values is not None and found.values.shape == (10, 512, 2, 2)
    assert list(tmp_path.glob("maps-resnet18-random-*.npy"))


# Bad input


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["reward=image"], "reward.encoder=null has none"),
        (["reward=image", "reward.encoder=resnet18", "reward.weights=simulation"], "python -m pbrl.pretrain"),
        (["reward=rapl", "reward.encoder=resnet18", "reward.weights=none", "reward.features=7"], "reward.features=7"),
        (["reward=rapl", "reward.encoder=resnet18", "reward.weights=none", "reward.align=false"], "learns nothing"),
        (["reward=rapl", "reward.encoder=resnet18", "reward.weights=gone.pt"], "there is no such file"),
    ],
)
def test_what_cannot_be_unfrozen_is_found_out_before_anything_is_made(flags, says):
    with pytest.raises(UserError, match=says):
        validate(RunSettings.parse(config("algo=iql", "feedback=perfect", "reward.unfreeze=true", *flags)))


@pytest.mark.parametrize("name", SMALL)
def test_features_in_place_of_maps_are_refused(name):
    model, data = make_reward(name), data_for(name, MAPS[:, :, 0, 0])
    with pytest.raises(UserError, match="before its last block, 512 x any x any numbers"):
        model.label(data.table) if name == "image" else model.measure(data)


def test_the_block_is_never_in_training_mode():
    model = make_reward("image").train()
    assert not any(m.training for m in model.block.modules()) and isinstance(model.block.block[0], nn.Module)
