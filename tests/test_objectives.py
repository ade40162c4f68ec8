"""Closed forms of the preference losses, and what each is there for."""

import numpy as np
import pytest
import torch

from pbrl import objectives
from pbrl.types import UserError
from tests.parts import made_up_data, names, objective

SCORES = torch.tensor([[0.3, 1.1], [-1.2, -1.0], [2.0, -3.0]])
A, B = SCORES.double().numpy().T
LISTS = ("plackett_luce", "lipo_lambda")
UNPAIRED = [loss.__name__ for loss in objectives.UNPAIRED]
NAMES = [name for name in names("objective") if name not in LISTS]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_name(name, **changes):
    """A loss of scores and labels; to an unpaired one a pair's winner is good and its loser bad."""
    loss = objective(name, **changes).loss
    return (lambda s, y: loss(s, torch.stack([1 - y, y], -1))) if name in UNPAIRED else loss


def is_close(found, expected):
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [0.0, 0.25, 0.5, 1.0])
def test_bradley_terry_is_the_cross_entropy(label):
    p = sigmoid(B - A)
    is_close(objectives.bradley_terry(SCORES, torch.tensor(label)), -(label * np.log(p) + (1 - label) * np.log(1 - p)))


def test_logistic_with_bias_is_equation_seven_of_cpl():
    expected = -np.log(np.exp(B) / (np.exp(B) + np.exp(0.5 * A)))
    is_close(objectives.logistic(SCORES, torch.ones(3), bias=0.5), expected)


def test_a_low_bias_prefers_likely_segments():
    """Shifting both scores leaves Bradley-Terry as it is; with bias < 1 higher likelihood costs less."""
    label = torch.ones(3)
    torch.testing.assert_close(objectives.bradley_terry(SCORES + 1, label), objectives.bradley_terry(SCORES, label))
    low = [objectives.logistic(s, label, bias=0.5) for s in (SCORES + 1, SCORES)]
    assert (low[0] < low[1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_swapping_segments_and_label_changes_nothing(name):
    label = torch.tensor([0.0, 0.3, 1.0])
    torch.testing.assert_close(by_name(name)(SCORES, label), by_name(name)(SCORES.flip(1), 1 - label))


@pytest.mark.parametrize("name", NAMES)
def test_the_winner_rises_and_the_loser_falls(name):
    for label in (0.0, 1.0):
        scores = torch.zeros(4, 2, requires_grad=True)
        by_name(name)(scores, torch.full((4,), label)).sum().backward()
        assert scores.grad is not None
        towards_second = scores.grad[:, 0] - scores.grad[:, 1]
        assert (towards_second * (2 * label - 1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_tie_has_equal_gradients(name):
    scores = torch.full((4, 2), 0.2, requires_grad=True)
    by_name(name)(scores, torch.full((4,), 0.5)).sum().backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad[:, 0], scores.grad[:, 1])


def test_robust_is_unbiased_and_smoothed_is_not():
    """The mean over flipped and unflipped labels is the clean loss (Chowdhury et al., lemma on unbiasedness)."""
    label, mistake = torch.tensor([1.0, 0.0, 1.0]), 0.2
    clean = objectives.bradley_terry(SCORES, label)
    for loss, unbiased in ((objectives.robust, True), (objectives.smoothed, False)):
        mean = (1 - mistake) * loss(SCORES, label, mistake=mistake) + mistake * loss(SCORES, 1 - label, mistake=mistake)
        assert torch.allclose(mean, clean, atol=1e-5) == unbiased
    is_close(objectives.smoothed(SCORES, label, mistake=mistake),
             (0.8 * clean + 0.2 * objectives.bradley_terry(SCORES, 1 - label)).double().numpy())  # fmt: skip


def test_smoothed_is_least_at_a_finite_margin():
    """It is least where sigmoid(b - a) is the share of right answers; the plain loss falls for ever."""
    leads = torch.linspace(-1, 6, 701)
    scores = torch.stack([torch.zeros(701), leads], 1)
    found = leads[objectives.smoothed(scores, torch.ones(701), mistake=0.1).argmin()].item()
    assert found == pytest.approx(np.log(0.9 / 0.1), abs=0.02)


def test_hinge_stops_at_its_margin():
    is_close(objectives.hinge(SCORES, torch.ones(3), margin=0.5), np.maximum(0, 0.5 - (B - A)))
    assert objectives.hinge(torch.tensor([[0.0, 0.6]]), torch.ones(1), margin=0.5).item() == 0


def test_ipo_is_least_at_its_margin():
    is_close(objectives.ipo(SCORES, torch.zeros(3), margin=0.5), (A - B - 0.5) ** 2)
    assert objectives.ipo(torch.tensor([[0.0, 0.25]]), torch.tensor([0.75]), margin=0.5).item() == 0


def test_sppo_is_least_where_scores_are_wins():
    label = torch.tensor([1.0, 0.3, 0.0])
    best = 2.0 * torch.stack([0.5 - label, label - 0.5], 1)
    assert objectives.sppo(best, label, scale=2.0).abs().max() < 1e-12
    is_close(objectives.sppo(SCORES, torch.ones(3), scale=2.0), (A + 1) ** 2 + (B - 1) ** 2)


@pytest.mark.parametrize("divergence, derivative", [
    ("reverse_kl", lambda u: np.log(u) + 1),
    ("forward_kl", lambda u: -1 / u),
    ("jensen_shannon", lambda u: np.log(2 * u / (1 + u))),
    ("alpha", lambda u: (1 - u**-0.4) / 0.4),
])  # fmt: skip
def test_an_f_divergence_scores_by_its_derivative(divergence, derivative):
    gap = derivative(np.exp(B)) - derivative(np.exp(A))
    found = objectives.f_divergence(SCORES, torch.ones(3), divergence=divergence, alpha=0.4)
    is_close(found, -np.log(sigmoid(gap)))


def test_sft_regularised_adds_the_winners_score():
    label = torch.tensor([1.0, 0.0, 1.0])
    added = objectives.bradley_terry(SCORES, label) - objectives.sft_regularised(SCORES, label, weight=0.3)
    is_close(added, 0.3 * np.array([B[0], A[1], B[2]]))


def test_kto_weighs_against_the_mean_and_never_below_zero():
    for scores in (SCORES, SCORES + 3):
        a, b = scores.double().numpy().T
        reference = max(0.0, scores.mean().item())
        expected = ((1 - sigmoid(b - reference)) + (1 - sigmoid(reference - a))) / 2
        is_close(by_name("kto")(scores, torch.ones(3)), expected)


def test_dro_is_least_where_scores_are_rewards_up_to_a_value():
    good = torch.tensor([[0.0, 1.0], [1.0, 0.5], [1.0, 1.0]])
    assert objectives.dro(good - 0.7, good).abs().max() < 1e-12
    value = 0.5 * np.mean((0 - A) + (1 - B))
    is_close(by_name("dro")(SCORES, torch.ones(3)), 0.25 * ((0 - A - value) ** 2 + (1 - B - value) ** 2))


@pytest.mark.parametrize("name", UNPAIRED)
def test_unpaired_segments_rise_or_fall_whatever_stands_beside_them(name):
    scores = torch.zeros(3, 2, requires_grad=True)
    objective(name).loss(scores, torch.tensor([[1.0, 1], [0, 0], [0, 1]])).sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad < 0, torch.tensor([[True, True], [False, False], [False, True]]))


FOUR = torch.tensor([[0.3, -1.1, 0.9, 0.2], [2.0, 0.0, -0.5, 1.0]])
WORTH = torch.tensor([[3.0, 10.0, -1.0, 4.0], [0.0, 2.0, 1.0, 3.0]])


def test_plackett_luce_is_choosing_the_best_of_what_is_left():
    expected = []
    for scores, worth in zip(FOUR.double().numpy(), WORTH.numpy(), strict=True):
        left = scores[np.argsort(-worth)]  # best first
        expected.append(-np.mean([np.log(np.exp(left[i]) / np.exp(left[i:]).sum()) for i in range(3)]))
    is_close(objectives.plackett_luce(FOUR, WORTH, segments=4), expected)


def test_tied_segments_are_chosen_from_among_themselves_and_all_that_is_worse():
    a, b, c, _ = np.exp(FOUR[0].double().numpy())
    expected = -(np.log(a / (a + b + c)) + np.log(b / (a + b + c))) / 2
    is_close(objectives.plackett_luce(FOUR[:1, :3], torch.tensor([[1.0, 1.0, 0.0]]), segments=3), [expected])


def test_lipo_lambda_is_lambdarank_pair_by_pair():
    expected = []
    for scores, worth in zip(FOUR.double().numpy(), WORTH.numpy(), strict=True):
        place = np.argsort(np.argsort(-scores)) + 1
        gain = 2 ** (np.argsort(np.argsort(worth)) / 3) - 1
        total = 0.0
        for i in range(4):
            for j in range(4):
                if worth[i] > worth[j]:
                    cost = abs(gain[i] - gain[j]) * abs(1 / np.log(1 + place[i]) - 1 / np.log(1 + place[j]))
                    total -= cost * np.log(sigmoid(scores[i] - scores[j]))
        expected.append(total / 6)
    is_close(objectives.lipo_lambda(FOUR, WORTH, segments=4), expected)


@pytest.mark.parametrize("name", LISTS)
def test_the_order_of_a_list_changes_nothing_and_two_are_a_pair(name):
    loss = by_name(name, segments=4)
    for shuffle in ([3, 1, 0, 2], [1, 0, 3, 2]):
        torch.testing.assert_close(loss(FOUR[:, shuffle], WORTH[:, shuffle]), loss(FOUR, WORTH))
    two = vars(objectives)[name](SCORES, torch.tensor([[0.0, 1.0], [4.0, 2.0], [1.0, 3.0]]), segments=2)
    pair = objectives.bradley_terry(SCORES, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(two / two[0], pair / pair[0])


@pytest.mark.parametrize("name", LISTS)
def test_list_losses_push_towards_the_right_order(name):
    scores = torch.linspace(-0.1, 0.1, 4)[None].clone().requires_grad_()
    by_name(name, segments=4)(scores, torch.arange(4.0)[None]).sum().backward()
    assert scores.grad is not None and scores.grad[0, 3] < 0 < scores.grad[0, 0]


def test_agreement_counts_the_pairs_of_a_list():
    found = objectives.agreement(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 2.0, 1.0]]))
    assert found.item() == pytest.approx(2 / 3)
    tied = objectives.agreement(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 1.0, 1.0]]))
    assert tied.item() == 1.0


def test_bad_numbers_get_a_sentence():
    with pytest.raises(UserError, match="a half"):
        objectives.robust(SCORES, torch.ones(3), mistake=0.5)
    with pytest.raises(UserError, match="a half"):
        objective("robust", mistake=0.5)
    with pytest.raises(UserError, match="3 or more"):
        objective("plackett_luce", segments=2)
    with pytest.raises(UserError, match="jensen_shannon"):
        objectives.f_divergence(SCORES, torch.ones(3), divergence="total", alpha=0.5)


@pytest.mark.parametrize("name", [*NAMES, *LISTS])
def test_confidence_weighs_an_answer(name):
    """The mean over the batch of each answer's loss, times its confidence: at 0 an answer teaches nothing."""
    own = objective(name)
    wide = own.is_unpaired or own.segments > 2
    scores = torch.randn(3, 4, own.segments, generator=torch.Generator().manual_seed(0))  # [E, B, K]
    label = torch.arange(4.0 * own.segments).reshape(4, -1) % 3 / 2 if wide else torch.tensor([0.0, 1.0, 0.5, 1.0])
    confidence = torch.tensor([1.0, 0.5, 0.0, 0.25])
    every = own.loss(scores, label)
    assert every.shape == (3, 4)
    torch.testing.assert_close(own(scores, label), every.mean(-1))
    torch.testing.assert_close(own(scores, label, confidence), (every * confidence).sum(-1) / 4)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNPAIRED] + list(LISTS))
def test_half_the_confidence_is_half_the_gradient_and_none_is_none(name):
    own = objective(name)
    label = (
        torch.arange(4.0 * own.segments).reshape(4, -1) % 3 if own.segments > 2 else torch.tensor([0.0, 1.0, 0.3, 1.0])
    )

    def gradient(confidence):
        scores = (0.1 * torch.arange(4.0 * own.segments)).reshape(4, -1).sin().requires_grad_()
        own(scores, label, torch.tensor(confidence)).backward()
        return scores.grad

    full, weighed = gradient([1.0, 1.0, 1.0, 1.0]), gradient([1.0, 0.5, 0.0, 0.5])
    assert (full.abs().amax(-1) > 0).all()
    torch.testing.assert_close(weighed, full * torch.tensor([[1.0], [0.5], [0.0], [0.5]]))


@pytest.mark.parametrize("name", [*NAMES, *LISTS])
def test_an_objective_says_what_it_is_a_loss_of_and_draws_that(name):
    own = objective(name)
    assert own.name == name and own.is_unpaired == (name in UNPAIRED)
    assert own.is_relative == (name in ("f_divergence", "sppo", "kto", "dro"))
    data = made_up_data("ranking" if name in LISTS else "pair")
    data.length = 4
    for batch in (own.draw(data, 8), own.draw_by_reward(data, 8)):
        assert batch.segments.action.shape[:2] == (8, own.segments)
        assert batch.label.shape == ((8,) if own.segments == 2 and not own.is_unpaired else (8, own.segments))
        assert own(torch.zeros(8, own.segments), batch.label, batch.confidence).shape == ()


def test_compiled_is_eager(graph_alone):
    """All losses in one graph, of a single learner and of three members, with the gradients of their scores."""
    random = torch.Generator().manual_seed(0)
    losses = {name: objective(name) for name in names("objective")}
    batches = {}
    for name, loss in losses.items():
        kind = "spans" if loss.is_unpaired else "ranking" if loss.segments > 2 else "pair"
        drawn = loss.draw(made_up_data(kind), 16)
        for lead in ((), (3,)):
            scores = torch.randn(*lead, 16, loss.segments, generator=random)
            batches[name, lead] = scores, drawn.label, torch.rand(16, generator=random)

    def evaluate(every):
        found = {key: losses[key[0]](*batch) for key, batch in every.items()}
        return found, sum(loss.sum() for loss in found.values())

    def run(how):
        every = {key: (scores.clone().requires_grad_(), *rest) for key, (scores, *rest) in batches.items()}
        found, total = how(every)
        total.backward()
        return found, {key: scores.grad for key, (scores, *_) in every.items()}

    torch.compiler.reset()
    for one, other in zip(run(evaluate), run(torch.compile(evaluate, fullgraph=True)), strict=True):
        for key in batches:
            torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-5, msg=str(key))
