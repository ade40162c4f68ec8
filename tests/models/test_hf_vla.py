"""Policies around vision-language models of Hugging Face, on tiny random ones that are saved as real ones are."""

import copy
import json
import pickle
import shutil
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("peft", reason="needs peft: pip install -e '.[vla]'")

from pbrl.algos.bc import BC
from pbrl.models.bins import TokenBins
from pbrl.models.frozen_vision import _size
from pbrl.models.hf_vla import FlowVLA, HFPolicy, TokenVLA
from pbrl.models.policy import load_policy, save_policy
from pbrl.models.text import tokenize
from pbrl.run.validate import validate
from pbrl.settings import RunSettings
from pbrl.types import Observation, Segment, Spec, TrajectoryComparisons, UserError
from tests.models.vision_language import FAMILIES
from tests.parts import config, objective

VOCABULARY = ("button", "drawer", "open", "press", "the")
SPEC = Spec(3, 2, (0.0,) * 3, (1.0,) * 3, 30, {"front": (20, 24, 3), "wrist": (20, 24, 3)}, vocabulary=VOCABULARY)
ONE = replace(SPEC, images={"front": (20, 24, 3)})  # all that OpenVLA sees
SAID = ["press the button", "open the drawer", "open"]
STATISTICS = {"mine": {"action": {"q01": [-0.5, -0.2], "q99": [0.7, 0.4], "mask": [True, False]}}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where each family's model is saved."""
    root = tmp_path_factory.mktemp("models")
    for name, make in FAMILIES.items():
        make(root / name)
        (root / name / "dataset_statistics.json").write_text(json.dumps(STATISTICS))
    return root


def token_vla(folder, spec: Spec | None = None, seed: int = 0, **changes: Any) -> TokenVLA:
    """`policy=hf_vla`, small, and as if it had been trained."""
    small = {"horizon": 3, "execute": 2, "lora_rank": 2} | changes
    torch.manual_seed(seed)
    return stir(TokenVLA(spec or spec_of(folder), **settings("hf_vla", path=str(folder), **small)))


def flow_vla(folder, spec: Spec | None = None, seed: int = 0, **changes: Any) -> FlowVLA:
    """`policy=hf_vla_flow`, small."""
    small = {"width": 16, "heads": 2, "layers": 1, "horizon": 3, "execute": 2, "lora_rank": 2} | changes
    torch.manual_seed(seed)
    return stir(FlowVLA(spec or spec_of(folder), **settings("hf_vla_flow", path=str(folder), **small)))


def spec_of(folder) -> Spec:
    return ONE if folder.name == "openvla" else SPEC


def settings(name: str, **changes: Any) -> dict[str, Any]:
    found = config(f"policy={name}")["policy"] | changes
    return {key: value for key, value in found.items() if key != "_target_"}


def stir(policy: Any) -> Any:
    """The policy, none of whose parameters is zero any more, and whose actions are not certain."""
    for name, p in policy.named_parameters():
        p.data += (0.02 if "lm_head" in name else 0.3) * torch.randn(p.shape)
    return policy


def observe(*lead: int, seed: int = 0, said: list[str] = SAID, spec: Spec = SPEC) -> Observation:
    """Random images and states, and what is said to each row in turn."""
    random = torch.Generator().manual_seed(seed)
    images = {
        name: torch.randint(0, 256, (*lead, *shape), generator=random, dtype=torch.uint8)
        for name, shape in spec.images.items()
    }
    tokens = torch.from_numpy(tokenize([said[i % len(said)] for i in range(int(np.prod(lead)))], spec.vocabulary))
    return Observation(torch.randn(*lead, spec.obs_dim, generator=random), images, {"tokens": tokens.view(*lead, -1)})


def chunks(policy: HFPolicy, *lead: int, seed: int = 0) -> Segment:
    """Chunks of random actions that the policy can say."""
    random = torch.Generator().manual_seed(seed)
    shape = (*lead, policy.horizon, policy.spec.action_dim)
    action = 2 * torch.rand(shape, generator=random) - 1
    if isinstance(policy, TokenVLA):
        action = policy.from_bins(policy.to_bins(action))
    return Segment(observe(*lead, seed=seed), action, torch.ones(shape[:-1]))


def without_cache(policy: TokenVLA, obs: Observation, bins: Tensor) -> Tensor:
    """The log-probabilities of the bins [B, N, bins - 1] that follow each of N, all read at once by the model alone."""
    inputs = policy.vlm.inputs(*policy.told(obs))
    ids = policy.bins.ids(bins)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.ones_like(ids)}
    inputs = {key: torch.cat([x, whole[key]], 1) if key in whole else x for key, x in inputs.items()}
    return policy.bins.log_prob(policy.vlm.model(**inputs, use_cache=False).logits[:, -1 - bins.shape[1] :])


# Bins


def test_what_tokens_say_is_openvlas_published_rule():
    """Their rule, in numbers: 256 even points are edges, middles lie between neighbours, ids count from the end."""
    size, edges = 32000, np.linspace(-1, 1, 256)
    middles, bins = (edges[:-1] + edges[1:]) / 2, TokenBins(256, size)
    ids = np.arange(size - 256, size)
    theirs = middles[np.clip(size - ids - 1, 0, 254)]
    said = torch.full((256, size), -20.0)  # each row says one of the ids
    said[torch.arange(256), torch.from_numpy(ids)] = 20.0
    np.testing.assert_allclose(bins.decode(bins.log_prob(said).argmax(-1)), theirs, atol=1e-7)

    numbers = np.random.default_rng(0).uniform(-1, 1, 5000)
    places = np.digitize(numbers, edges)  # they say size minus this
    ours = bins.ids(bins.encode(torch.from_numpy(numbers))).numpy()
    own = numbers < edges[254]  # the last bin has two ids, of which we say that of 1 itself
    assert (ours == size - places)[own].all() and (ours[~own] == size - 256).all() and 10 < (~own).sum() < 60
    assert size - np.digitize(1.0, edges) == bins.ids(bins.encode(torch.tensor([1.0]))).item() == 31744


def test_both_ids_of_the_last_bin_count():
    bins, logits = TokenBins(8, 20), torch.randn(5, 20)
    own = logits[:, 12:].softmax(-1)
    torch.testing.assert_close(bins.log_prob(logits)[:, -1].exp(), own[:, 0] + own[:, 1])
    torch.testing.assert_close(bins.log_prob(logits)[:, 0].exp(), own[:, -1])


@pytest.mark.parametrize(
    "changes",
    [
        {"statistics": "unit"},
        {"statistics": "checkpoint"},
        {"statistics": "checkpoint", "action_low": [-2.0, -1.0], "action_high": [0.9, 1.5]},
    ],
)
def test_bins_survive_both_ways(folders, changes):
    policy = token_vla(folders / "llava", **changes)
    bins = torch.arange(255)[:, None].expand(-1, 2)
    actions = policy.from_bins(bins)
    assert torch.equal(policy.to_bins(actions), bins) and actions.abs().max() <= 1


def test_numbers_are_unnormalised_between_the_percentiles(folders):
    """(x + 1) / 2 (q99 - q01) + q01 where the mask is true, and x itself where it is not."""
    middle = -1 + (2 * 37 + 1) / 255
    found = token_vla(folders / "llava").from_bins(torch.tensor([37, 37]))
    torch.testing.assert_close(found, torch.tensor([(middle + 1) / 2 * 1.2 - 0.5, middle]))
    inside = {"action_low": [-2.0, -1.0], "action_high": [2.0, 3.0]}  # 0 is the middle of one, -0.5 of the other
    found = token_vla(folders / "llava", **inside).from_bins(torch.tensor([37, 37]))
    torch.testing.assert_close(found, torch.tensor([((middle + 1) / 2 * 1.2 - 0.5) / 2, (middle - 1) / 2]))


# Likelihood


@pytest.mark.parametrize("family", FAMILIES)
def test_a_drawn_chunks_likelihood_is_that_of_its_tokens_without_a_cache(folders, family):
    policy, obs = token_vla(folders / family), observe(3)
    policy.explore_from(5)
    policy.act(obs, explore=True)
    chunk = policy.queue.chunk
    bins = policy.to_bins(chunk)
    assert torch.equal(policy.from_bins(bins), chunk) and bins.unique().numel() > 12  # drawn, and not all alike
    with torch.no_grad():
        steps, whole = policy.log_prob_steps(obs, chunk), policy.log_prob(obs, chunk)
        each = without_cache(policy, obs, bins.flatten(1)[:, :-1]).gather(-1, bins.flatten(1)[..., None])[..., 0]
    assert steps.shape == (3, 3)
    torch.testing.assert_close(steps, each.unflatten(1, (3, 2)).sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole, steps.sum(-1))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_changes_no_token(folders, family):
    policy, obs = token_vla(folders / family), observe(3)
    likeliest = torch.empty(3, 0, dtype=torch.long)
    with torch.no_grad():
        for _ in range(6):
            found = without_cache(policy, obs, likeliest)[:, -1].argmax(-1)
            likeliest = torch.cat([likeliest, found[:, None]], 1)
    assert torch.equal(policy.to_bins(policy.plan(obs)).flatten(1), likeliest)


def test_all_actions_together_are_certain(folders):
    spec = Spec(3, 1, (0.0,) * 3, (1.0,) * 3, 30, {"front": (20, 24, 3)}, vocabulary=VOCABULARY)
    policy = TokenVLA(spec, **settings("hf_vla", path=str(folders / "llava"), lora_rank=2, statistics="unit"))
    obs = observe(1, spec=spec)
    every = policy.from_bins(torch.arange(255)[:, None])
    rows = Observation(obs.state.expand(255, -1), {k: v.expand(255, -1, -1, -1) for k, v in obs.images.items()},
                       {k: v.expand(255, -1) for k, v in obs.text.items()})  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(policy.log_prob(rows, every).logsumexp(0), torch.zeros(()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_each_camera_and_words_are_read_and_other_rows_are_not(folders, family):
    policy, one = token_vla(folders / family), chunks(token_vla(folders / family), 3)
    with torch.no_grad():
        found = policy.log_prob(one.obs, one.action)
        alone = [policy.log_prob(Observation(*(_take(part, i) for part in one.obs)), one.action[i]) for i in range(3)]
        torch.testing.assert_close(found, torch.stack(alone), atol=1e-4, rtol=1e-4)  # not padded to the longest
        for camera in policy.spec.images:
            images = one.obs.images | {camera: 255 - one.obs.images[camera]}
            assert ((policy.log_prob(one.obs._replace(images=images), one.action) - found).abs() > 1e-3).any()
        other = one.obs._replace(text=observe(3, said=SAID[1:] + SAID[:1]).text)
        assert ((policy.log_prob(other, one.action) - found).abs() > 1e-3).any()


def _take(part: Any, i: int) -> Any:
    return {k: v[i] for k, v in part.items()} if isinstance(part, dict) else part[i]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_frozen_encoder_makes_of_an_image_is_computed_once(folders, family, tmp_path):
    plain, frozen = (token_vla(folders / family, freeze_vision=on, vision_cache_mb=100) for on in (False, True))
    assert len(list(frozen.parameters())) < len(list(plain.parameters()))
    own, vision = chunks(frozen, 4), frozen.vlm.vision
    own = own._replace(obs=observe(4, spec=frozen.spec))
    with torch.no_grad():
        first = frozen.score_chunks(own)
        count = vision.computed
        assert torch.equal(frozen.score_chunks(own), first) and vision.computed == count > 0
        vision.forget()
        torch.testing.assert_close(frozen.score_chunks(own), first)
        assert vision.computed == 2 * count
        twice = own._replace(obs=Observation(*(_take(part, torch.tensor([0, 0, 1, 0])) for part in own.obs)))
        vision.forget()
        torch.testing.assert_close(frozen.score_chunks(twice)[0], first[0], atol=1e-4, rtol=1e-4)
        assert vision.computed == 2.5 * count, "two images of four rows"
        changed = own.obs.images["front"].clone()
        changed[0, 3, 3] ^= 255
        other = own._replace(obs=own.obs._replace(images={**own.obs.images, "front": changed}))
        assert not torch.equal(frozen.score_chunks(other)[0], first[0]), "another pixel is another image"
    loss = -frozen.score_chunks(own).sum()
    grads = torch.autograd.grad(loss, list(frozen.parameters()))
    assert all(torch.isfinite(g).all() for g in grads) and sum(bool(g.any()) for g in grads) > 4
    save_policy(frozen, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    copied, pickled = copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))
    with torch.no_grad():
        for one in (again, copied, pickled):
            assert one.vlm.vision is not vision and one.vlm.vision.encoder is not vision.encoder
            torch.testing.assert_close(one.score_chunks(own), frozen.score_chunks(own))


def test_only_so_much_is_kept(folders):
    policy = token_vla(folders / "llava", freeze_vision=True, vision_cache_mb=0.0)
    own, vision = chunks(policy, 4), policy.vlm.vision
    with torch.no_grad():
        policy.score_chunks(own)
    held = vision.bytes
    assert 0 < len(vision.kept) <= 8 and held > 0
    vision.most = 2.5 * held
    for seed in range(6):
        with torch.no_grad():
            policy.score_chunks(chunks(policy, 4, seed=seed))
    assert vision.bytes <= vision.most and vision.bytes == sum(map(_size, vision.kept.values()))


def test_steps_that_were_not_carried_out_count_nothing(folders):
    policy = token_vla(folders / "llava")
    own = chunks(policy, 2, 4)
    mask = own.mask.clone()
    mask[0, 2:], mask[1, 1, 1:] = 0, 0
    with torch.no_grad():
        steps = policy.log_prob_steps(own.obs, own.action)
        found = policy.score_chunks(own._replace(mask=mask))
    torch.testing.assert_close(found, (steps * mask).sum(-1), atol=1e-4, rtol=1e-4)
    seven = Segment(observe(2, 7), torch.zeros(2, 7, 2), torch.ones(2, 7))
    assert policy.score(seven).shape == (2,)


@pytest.mark.parametrize("make", [token_vla, flow_vla])
def test_gradients_are_the_same_when_rows_are_read_one_at_a_time(folders, make):
    found = []
    for at_once in (1, 8):
        policy = make(folders / "idefics3", at_once=at_once)
        own = chunks(policy, 3)
        torch.manual_seed(1)
        loss = policy.log_prob(own.obs, own.action).sum()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))]))
    assert found[1].abs().max() > 0.1
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


# Training and saving


def hold(policy: HFPolicy) -> dict[str, Tensor]:
    """The model's parameters that are not trained."""
    trained = {id(p) for p in policy.vlm.adapter.values()}
    return {k: v.detach().clone() for k, v in policy.vlm.model.named_parameters() if id(v) not in trained}


def clone(policy: HFPolicy, steps: int = 1, lr: float = 0.01) -> list[float]:
    """Losses of behavior cloning on one batch of chunks."""
    given = {"fraction": 1.0, "weights": None, "above": 0.5, "lr": lr, "cosine_steps": 0, "batch_size": 4}
    learner, own = BC(SPEC, policy, **given), chunks(policy, 4)
    obs = Observation(*({k: v[:, None] for k, v in x.items()} if isinstance(x, dict) else x[:, None] for x in own.obs))
    segment = Segment(obs, own.action, own.mask)
    return [learner.update_chunks(segment)["bc"].item() for _ in range(steps)]


@pytest.mark.parametrize(("make", "family"), [(token_vla, f) for f in FAMILIES] + [(flow_vla, f) for f in FAMILIES])
def test_one_update_moves_the_adapter_alone_and_what_is_saved_acts_alike(folders, tmp_path, make, family):
    policy = make(folders / family)
    before, frozen = {k: v.clone() for k, v in policy.state_dict().items()}, hold(policy)
    clone(policy)
    after = hold(policy)
    assert frozen and all(torch.equal(value, after[key]) for key, value in frozen.items())
    moved = [key for key, value in policy.state_dict().items() if not torch.equal(value, before[key])]
    assert sum("lora_A" in key for key in moved) > 10 < sum("lora_B" in key for key in moved)
    assert {key.split(".")[0] for key in moved} <= {"vlm", "denoiser"}
    assert any("lm_head" in key for key in moved) == (make is token_vla)  # a flow head asks for no logits

    save_policy(policy, tmp_path / "policy.pt")
    saved = torch.load(tmp_path / "policy.pt", weights_only=True)
    assert not any("vlm" in key and "lora" not in key for key in saved["state"])
    again: Any = load_policy(tmp_path)
    obs = observe(3)
    for explore in (False, True):
        for one in (policy, again):
            one.reset()
            one.explore_from(3)
        assert torch.equal(policy.act(obs, explore), again.act(obs, explore))
        assert torch.equal(policy.queue.chunk, again.queue.chunk)


def test_it_learns_what_pictures_and_words_call_for(folders):
    torch.manual_seed(0)
    new = settings("hf_vla", path=str(folders / "llava"), lora_rank=8, lora_alpha=8, horizon=3)
    policy = TokenVLA(SPEC, **new)
    losses, own = clone(policy, 60), chunks(policy, 4)
    assert losses[0] > 10 and losses[-1] < 2  # of two numbers a step: 2 log 255 = 11 is what is not known at all
    assert torch.equal(policy.to_bins(policy.plan(own.obs)), policy.to_bins(own.action))


def test_a_model_in_bfloat16_has_an_adapter_in_float32(folders):
    policy, exact = (token_vla(folders / "idefics3", dtype=dtype) for dtype in ("bfloat16", "float32"))
    own, frozen = chunks(policy, 3), hold(policy)
    assert {value.dtype for value in frozen.values()} == {torch.bfloat16}
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    with torch.no_grad():
        found, expected = (p.log_prob(own.obs, own.action) for p in (policy, exact))
    torch.testing.assert_close(found, expected, atol=0.5, rtol=0.05)
    losses = clone(policy, 5)
    assert losses[-1] < losses[0] and all(torch.equal(value, hold(policy)[key]) for key, value in frozen.items())


def test_all_parameters_are_trained_without_lora(folders, tmp_path):
    policy = TokenVLA(SPEC, **settings("hf_vla", path=str(folders / "llava"), lora_rank=0, horizon=3))
    assert not hold(policy)
    before = copy.deepcopy(policy)
    clone(policy)
    moved = [not torch.equal(p, q) for p, q in zip(policy.parameters(), before.parameters(), strict=True)]
    assert sum(moved) > 40
    save_policy(policy, tmp_path / "policy.pt")
    assert torch.equal(load_policy(tmp_path).plan(observe(3)), policy.plan(observe(3)))


def test_trajectory_preferences_raise_the_better_of_two_episodes(folders):
    from pbrl.algos.tpo import Batch
    from pbrl.run.build import build

    policy = token_vla(folders / "idefics3", at_once=5, statistics="unit")
    algo = config("algo=tpo", "policy=hf_vla")["algo"] | {"lr_after": 1e-3, "kl_weight": 0.0, "beta": 0.1}
    learner = build(algo, SPEC, policy=policy, objective=objective("logistic"))
    own = chunks(policy, 2, 2, 3)  # two pairs of episodes of three decisions
    with torch.no_grad():
        log_prob = policy.score_chunks(own)
    label, confidence = torch.tensor([1.0, 0.0]), torch.ones(2)
    nobody = torch.zeros(2, 2, dtype=torch.bool)
    pairs = TrajectoryComparisons(own, label, confidence, log_prob, torch.ones(2, 2, 3), nobody)
    cloned = Segment(
        Observation(*(_take(part, slice(0, 1)) for part in observe(2, 1))), torch.zeros(1, 3, 2), torch.ones(1, 3)
    )
    frozen = hold(policy)
    metrics = [learner.update(Batch(pairs, cloned)) for _ in range(8)]
    assert metrics[0]["ratio"].abs() < 1e-3
    torch.testing.assert_close(metrics[0]["tpo"], torch.tensor(2.0).log(), atol=1e-4, rtol=0)  # of DPO at the reference
    with torch.no_grad():
        gained = (policy.score_chunks(own) - log_prob).sum(-1)
    assert gained[0, 1] > gained[0, 0] and gained[1, 0] > gained[1, 1]
    assert all(torch.equal(value, hold(policy)[key]) for key, value in frozen.items())


@pytest.mark.parametrize("make", [token_vla, flow_vla])
def test_copies_act_alike_and_train_their_own_adapter(folders, make):
    policy, obs = make(folders / "llava"), observe(2)
    first = plan_anew(policy, obs)
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert torch.equal(plan_anew(other, obs), first)
        for p in other.vlm.adapter.values():
            p.data += torch.randn(p.shape)
        assert not torch.equal(plan_anew(other, obs), first)
    assert torch.equal(plan_anew(policy, obs), first)


def plan_anew(policy: HFPolicy, obs: Observation) -> Tensor:
    """What it plans where an episode begins."""
    policy.reset()
    return policy.plan(obs)


def test_a_flow_head_scores_pairs_by_the_same_noise(folders):
    policy = flow_vla(folders / "llava")
    pairs = Segment(observe(2, 2, 6), torch.rand(2, 2, 6, 2) * 2 - 1, torch.ones(2, 2, 6))
    with torch.no_grad():
        chance = policy.draw_chance(pairs)
        assert chance.time.shape == (4, 2, 1, 2)
        same = Segment(
            *(
                Observation(*(_repeat(x) for x in pairs.obs)) if i == 0 else _repeat(part)
                for i, part in enumerate(pairs)
            )
        )
        found = policy.score(same, chance)
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert (found[0] - found[1]).abs().min() > 1e-3


def test_a_flow_head_learns(folders):
    small = {"width": 32, "heads": 2, "layers": 1, "horizon": 3, "lora_rank": 4, "times": 16, "execute": 3}
    torch.manual_seed(0)
    policy = FlowVLA(SPEC, **settings("hf_vla_flow", path=str(folders / "llava"), **small))
    own = chunks(policy, 4)
    before, losses = policy.plan(own.obs), clone(policy, 120)
    after = plan_anew(policy, own.obs)
    assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:8])
    assert (after - own.action).abs().mean() < 0.6 * (before - own.action).abs().mean()


def _repeat(part: Any) -> Any:
    """The first segment of each pair in place of the second too."""
    return {k: _repeat(v) for k, v in part.items()} if isinstance(part, dict) else part[:, :1].expand_as(part)


# What is refused


def test_weights_that_changed_are_refused(folders, tmp_path):
    FAMILIES["llava"](tmp_path / "model")
    policy = token_vla(tmp_path / "model", statistics="unit")
    save_policy(policy, tmp_path / "policy.pt")
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="not those that the policy was trained on .* put those back"):
        load_policy(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": None}, "policy.path=…"),
        ({"path": "/nowhere/at/all"}, "no such folder"),
        ({"prompt": "Out:"}, "must say where {instruction} is"),
        ({"prompt": "{instruction}"}, "does not suit the processor"),
        ({"dtype": "float8"}, "policy.dtype=float8"),
        ({"lora_rank": 0, "dtype": "bfloat16"}, "too coarse"),
        ({"vocabulary_size": 516}, "515 is <image>"),
        ({"vocabulary_size": 5000}, "do not fit the 520 words"),
        ({"unnorm_key": "other"}, "statistics of mine"),
        ({"statistics": "gone.json"}, "no such file"),
        ({"action_low": [-1.0, -1.0]}, "belong together"),
        ({"action_low": [-1.0, -1.0], "action_high": [0.5, 1.0]}, "number 0 of actions reaches beyond"),
        ({"execute": 9}, "policy.execute=9"),
    ],
)
def test_settings_that_cannot_be(folders, changes, words):
    with pytest.raises(UserError, match=words.replace("{", r"\{")):
        TokenVLA(SPEC, **settings("hf_vla", **{"path": str(folders / "llava"), "lora_rank": 2, "horizon": 3} | changes))


def test_statistics_that_are_missing_or_of_other_actions(folders, tmp_path):
    FAMILIES["llava"](tmp_path)
    with pytest.raises(UserError, match="holds no statistics of actions .* policy.statistics=unit"):
        token_vla(tmp_path)
    seven = Spec(3, 7, (0.0,) * 3, (1.0,) * 3, 30, SPEC.images, vocabulary=VOCABULARY)
    with pytest.raises(UserError, match="actions have 7 numbers, and policy.statistics=checkpoint are of 2"):
        token_vla(folders / "llava", seven)
    found = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(found | {"norm_stats": STATISTICS})
    )  # where OpenVLA's own has them
    assert torch.equal(token_vla(tmp_path).scale, token_vla(folders / "llava").scale)
    still = {"mine": {"action": {"q01": [0.0, 0.1], "q99": [0.5, 0.1]}}}
    (tmp_path / "still.json").write_text(json.dumps(still))
    with pytest.raises(UserError, match="number 1 of actions never moves"):
        token_vla(tmp_path, statistics=str(tmp_path / "still.json"))


def test_a_tokenizer_that_is_of_another_checkpoint(folders, tmp_path):
    FAMILIES["llava"](tmp_path)
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    for i in range(516, 530):
        words["added_tokens"].append({**words["added_tokens"][-1], "id": i, "content": f"<new {i}>", "special": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="a tokenizer of 530 words and a model of 520"):
        token_vla(tmp_path, statistics="unit")


def test_weights_that_are_not_all_of_the_models(tmp_path):
    FAMILIES["llava"](tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "projector.linear_2" not in k}, file, {"format": "pt"})
    with pytest.raises(UserError, match="lack 2 of the model's, as model.multi_modal_projector.linear_2.bias"):
        token_vla(tmp_path, statistics="unit")


def test_an_instruction_that_is_missing(folders):
    mute = Spec(3, 2, (0.0,) * 3, (1.0,) * 3, 30, SPEC.images)
    with pytest.raises(UserError, match="the data say no instruction"):
        token_vla(folders / "llava", mute)
    always = token_vla(folders / "llava", mute, instruction="press the button")
    assert token_vla(folders / "llava").reads_words and not always.reads_words
    told = token_vla(folders / "llava")
    obs = observe(2, said=SAID[:1])
    assert torch.equal(always.plan(obs._replace(text={})), told.plan(obs))
    with pytest.raises(UserError, match="an episode says no instruction"):
        told.plan(observe(2, said=["press", "somersault"]))


def test_settings_are_checked_without_reading_weights(folders, monkeypatch):
    monkeypatch.setattr("pbrl.models.hf_backbone.load_model", None)
    nothing = Spec(1, 1, (0.0,), (1.0,), 1, SPEC.images)  # is known of the data yet
    assert not list(token_vla(folders / "llava", nothing).parameters())
    with pytest.raises(UserError, match="policy.dtype=float8"):
        token_vla(folders / "llava", nothing, dtype="float8")
    with pytest.raises(UserError, match="more than one step"):
        token_vla(folders / "llava", nothing).plan(observe(1))


def test_several_seeds_at_once(folders):
    found = config("algo=bc", "policy=hf_vla", "env.images=[corner2]", "feedback=none", "seeds=2")
    found["policy"] |= {"path": str(folders / "llava"), "statistics": "unit"}
    with pytest.raises(UserError, match="TokenVLA trains one seed at a time"):
        validate(RunSettings.parse(found))
    validate(RunSettings.parse(found | {"seeds": 1}))


def test_a_policy_without_cameras(folders):
    with pytest.raises(UserError, match="env.images"):
        token_vla(folders / "llava", Spec(3, 2, (0.0,) * 3, (1.0,) * 3, 30, vocabulary=VOCABULARY))


def test_a_folder_that_is_no_model_of_images(tmp_path, folders):
    with pytest.raises(UserError, match="holds no config.json"):
        token_vla(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(UserError, match="cannot be read by transformers' AutoConfig"):
        token_vla(tmp_path)
    shutil.copytree(folders / "llava", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="is a clip, which reads no images and text"):
        token_vla(tmp_path)


@pytest.mark.parametrize("name", ["peft", "transformers"])
def test_packages_that_are_missing_are_named(folders, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {name}: pip install pbrl\[vla\]"):
        token_vla(folders / "llava")
