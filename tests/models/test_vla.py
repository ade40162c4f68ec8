"""The small vision-language-action policy: its likelihood, its decoding, and what it reads."""

import math

import pytest
import torch

from pbrl.models.bins import ActionBins
from pbrl.models.optim import Adam
from pbrl.models.policy import load_policy, save_policy
from pbrl.models.text import WORDS, check_instruction, tokenize, unknown_words, vocabulary_of
from pbrl.models.vla import VLAPolicy, choose
from pbrl.types import Observation, Segment, Spec, UserError
from tests.parts import build

VOCABULARY = ("close", "door", "open", "the")
SPEC = Spec(5, 2, (0.0,) * 5, (1.0,) * 5, 30, {"front": (32, 32, 3), "wrist": (32, 32, 3)}, False, VOCABULARY)
SETTINGS = {"horizon": 3, "execute": 2, "bins": 7, "width": 16, "layers": 2, "heads": 2, "channels": 4,
            "temperature": 1.0}  # fmt: skip
DECODE = ("parallel", "autoregressive")


def policy(decode: str, **changes) -> VLAPolicy:
    torch.manual_seed(0)
    made = VLAPolicy(SPEC, **SETTINGS | {"decode": decode} | changes)
    with torch.no_grad():  # else all is nearly the same to it
        made.place.mul_(50), made.out.weight.mul_(5)
    return made


def observe(*lead: int, told: str = "open the door", seed: int = 1) -> Observation:
    random = torch.Generator().manual_seed(seed)
    images = {c: torch.randint(0, 256, (*lead, 32, 32, 3), dtype=torch.uint8, generator=random) for c in SPEC.images}
    tokens = torch.from_numpy(tokenize([told], VOCABULARY))[0].expand(*lead, -1)
    return Observation(torch.randn(*lead, 5, generator=random), images, {"tokens": tokens})


def test_bins_survive_both_ways():
    for count in (2, 7, 256):
        bins, every = ActionBins(count), torch.arange(count)
        assert torch.equal(bins.encode(bins.decode(every)), every)
        action = torch.linspace(-1, 1, 999)
        assert (bins.decode(bins.encode(action)) - action).abs().max() <= 1 / count + 1e-6
    assert ActionBins(256).encode(torch.tensor([-1.0, -1.5, 1.0, 7.0, 0.0])).tolist() == [0, 0, 255, 255, 128]
    assert ActionBins(256).decode(torch.tensor([0, 255])).tolist() == [-1 + 1 / 256, 1 - 1 / 256]


@pytest.mark.parametrize("decode", DECODE)
def test_likelihoods_of_all_chunks_add_up_to_one(decode):
    made = policy(decode, horizon=2, execute=1, bins=3)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).view(-1, 2, 2)  # 81 chunks of two actions of two numbers
    obs = observe(1)
    same = Observation(*(
        part.expand(81, *part.shape[1:]) if isinstance(part, torch.Tensor)
        else {k: v.expand(81, *v.shape[1:]) for k, v in part.items()} for part in obs
    ))  # fmt: skip
    log_prob = made.log_prob(same, made.bins.decode(every))
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert log_prob.std() > 0.1
    likeliest = every[log_prob.argmax()]
    if decode == "parallel":
        assert torch.equal(made.draw_bins(obs, None)[0], likeliest)


@pytest.mark.parametrize("decode", DECODE)
def test_a_drawn_chunk_is_as_likely_as_its_steps_together(decode):
    made, obs = policy(decode), observe(4)
    chunk = made.bins.decode(made.draw_bins(obs, torch.randn(4, 3, 2)))
    steps = made.log_prob_steps(obs, chunk)
    assert steps.shape == (4, 3) and (steps < 0).all()
    torch.testing.assert_close(steps.sum(-1), made.log_prob(obs, chunk))
    mask = torch.tensor([[[1.0, 1.0, 0.0]]] * 4)
    unsqueezed = Observation(
        obs.state[:, None], {k: v[:, None] for k, v in obs.images.items()}, {"tokens": obs.text["tokens"][:, None]}
    )
    score = made.score_chunks(Segment(unsqueezed, chunk[:, None], mask))
    torch.testing.assert_close(score[:, 0], steps[:, :2].sum(-1))


@pytest.mark.parametrize("decode", DECODE)
def test_some_of_a_batch_explore(decode):
    made, obs, some = policy(decode), observe(6), torch.arange(6) % 2 == 0
    acted = {}
    for name, explore in (("none", False), ("all", True), ("some", some)):
        made.reset()
        acted[name] = made.act(obs, explore)
    assert torch.equal(acted["some"], acted["all"].where(some[:, None], acted["none"]))
    assert not torch.equal(acted["all"][some], acted["none"][some])


def test_a_cache_changes_no_token():
    made, obs = policy("autoregressive"), observe(5)
    for normal in (None, torch.randn(5, 3, 2)):
        cached = made.draw_bins(obs, normal)
        assert torch.equal(cached, made.draw_bins(obs, normal, cached=False))
    assert len(cached.unique()) > 3


@pytest.mark.parametrize("decode", DECODE)
def test_an_action_is_told_of_those_before_it_alone(decode):
    made, obs = policy(decode), observe(1)
    bins = torch.tensor([[[0, 1], [2, 3], [4, 5]]])
    before = made.logits(obs, bins)
    bins[0, 1, 0] = 6
    changed = (made.logits(obs, bins) - before).abs().amax(-1)[0].flatten() > 1e-6
    assert changed.tolist() == [False] * 3 + [decode == "autoregressive"] * 3


def test_drawn_bins_are_as_frequent_as_they_are_likely():
    made, obs = policy("parallel", horizon=1, execute=1), observe(1)
    cache = made.read(obs)
    likely = made._decode_parallel(cache).softmax(-1)[0, 0, 0]
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    drawn = choose(likely.log().expand(10_000, -1), 1.0, uniform)
    torch.testing.assert_close(torch.bincount(drawn, minlength=7) / 10_000, likely, atol=2e-4, rtol=0)
    colder = choose(likely.log().expand(10_000, -1), 0.5, uniform)
    expected = likely.square() / likely.square().sum()
    torch.testing.assert_close(torch.bincount(colder, minlength=7) / 10_000, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("decode", DECODE)
def test_it_reads_images_words_and_state(decode):
    made, obs = policy(decode), observe(2)
    first = made.logits(obs, torch.zeros(2, 3, 2, dtype=torch.long))
    for other in (
        obs._replace(state=obs.state + 1),
        obs._replace(images={**obs.images, "wrist": 255 - obs.images["wrist"]}),
        obs._replace(text=observe(2, told="close the door").text),
        obs._replace(text=observe(2, told="door the open").text),  # their order too
    ):
        assert not torch.allclose(first, made.logits(other, torch.zeros(2, 3, 2, dtype=torch.long)), atol=1e-4)
    padded = observe(2, told="open the door").text["tokens"]
    assert padded.shape == (2, WORDS) and (padded[:, 3:] == 0).all()


def test_a_flow_head_reads_images_words_and_state_too():
    torch.manual_seed(0)
    made, obs = build("policy/vla_flow", SPEC), observe(2)
    assert made.reads_words and made.plan(obs).shape == (2, 4, 2)
    told = made.model.told(obs)
    for other in (
        obs._replace(state=obs.state + 1),
        obs._replace(images={**obs.images, "wrist": 255 - obs.images["wrist"]}),
        obs._replace(text=observe(2, told="close the door").text),
    ):
        assert not torch.allclose(told, made.model.told(other), atol=1e-5)
    assert not build("policy/diffusion", SPEC).reads_words


def test_a_flow_head_learns_what_is_told():
    """Two instructions, two chunks: what is planned for each is nearer to its own."""
    made = build("policy/vla_flow", SPEC, features=32, width=32, average=0.9)
    optim = Adam(made.parameters(), 3e-3)
    obs, other = observe(8), observe(8, told="close the door")
    both = Observation(
        torch.cat([obs.state, obs.state]), {k: torch.cat([v, v]) for k, v in obs.images.items()},
        {"tokens": torch.cat([obs.text["tokens"], other.text["tokens"]])},
    )  # fmt: skip
    chunk = torch.cat([torch.full((8, 4, 2), 0.7), torch.full((8, 4, 2), -0.7)])
    for _ in range(150):
        optim.step(-made.log_prob(both, chunk).mean())
        made.after_step()
    planned = made.plan(both)
    assert planned[:8].mean() > 0.35 and planned[8:].mean() < -0.35


def test_what_is_no_word_is_not_read():
    """An instruction of three words is the same however many places for words follow it."""
    made, obs = policy("parallel"), observe(2)
    with torch.no_grad():
        made.context.words.weight[0] = 100.0  # of no word
        changed = made.plan(obs)
        made.context.words.weight[0] = -100.0
        assert torch.equal(changed, made.plan(obs))


def test_exploration_can_be_repeated_and_changed():
    made, obs = policy("parallel"), observe(3)

    def drawn(seed):
        made.explore_from(seed), made.reset()
        return torch.stack([made.act(obs, explore=True) for _ in range(4)])

    one = drawn(1)
    assert torch.equal(one, drawn(1)) and not torch.equal(one, drawn(2))
    made.reset()
    assert made.looks()
    made.act(obs)
    assert not made.looks()
    made.act(obs)
    assert made.looks(), "two of three actions are carried out"


def test_it_is_saved_with_its_words(tmp_path):
    made, obs = policy("autoregressive"), observe(2)
    save_policy(made, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert again.spec.vocabulary == VOCABULARY and torch.equal(again.plan(obs), made.plan(obs))


def test_words():
    assert vocabulary_of(["Open the door!", "close the DOOR"]) == VOCABULARY
    tokens = tokenize(["close the window", ""], VOCABULARY)
    assert tokens[0, :4].tolist() == [2, 5, 1, 0] and not tokens[1].any()
    assert unknown_words("open the window", VOCABULARY) == ["window"]
    check_instruction("open the window", VOCABULARY)
    with pytest.raises(UserError, match="trained with none of its words; they are close, door, open, the"):
        check_instruction("dance!", VOCABULARY)
    with pytest.raises(UserError, match="instruction="):
        check_instruction(" ", VOCABULARY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"decode": "both"}, "policy.decode=both"), ({"execute": 4}, "policy.execute=4"), ({"heads": 3}, "multiple of"),
     ({"horizon": 99}, "longest episode has 30")],
)  # fmt: skip
def test_settings_that_make_no_policy(changes, message):
    with pytest.raises(UserError, match=message):
        VLAPolicy(SPEC, **SETTINGS | {"decode": "parallel"} | changes)


def test_an_untrained_policy_is_nearly_indifferent():
    torch.manual_seed(0)
    made = VLAPolicy(SPEC, **SETTINGS | {"decode": "parallel", "bins": 256})
    log_prob = made.log_prob_steps(observe(8), torch.rand(8, 3, 2) * 2 - 1)
    assert log_prob.mean().item() == pytest.approx(-2 * math.log(256), rel=0.1)
