"""Checks settings before anything is created; an error is one sentence.

Each part checks its own settings when it is built; here they are built small, and what they draw is compared with what
the run has to draw from.
"""

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch

from pbrl import distributed
from pbrl.data import frames
from pbrl.data.table import NORMALIZE, Table
from pbrl.feedback.labels import Labels
from pbrl.feedback.sources.reference import Reference
from pbrl.feedback.store.address import sqlite_file
from pbrl.feedback.strategies import needs_reward
from pbrl.models.frozen import find_weights
from pbrl.models.policy import is_eager
from pbrl.objectives import Objective
from pbrl.ranges import check_values, hints_of
from pbrl.run.build import build, build_algorithm, build_objective, build_reward, check_part, name_of
from pbrl.settings import PARTS, Query, RunSettings, check_names
from pbrl.training.batches import Data, Frames
from pbrl.training.engine import pick_device, wants_compile
from pbrl.types import Episode, FeedbackSource, Phase, Spec, UserError

BOTH = "comparisons_with_win_rates"  # from answers, with what a reward model makes of them
ANSWERS = {"comparisons", "marked", "rated", "attribute_comparisons", "triplets", BOTH}  # what is drawn from answers
PLAYED = {  # of the policy's own episodes
    "trajectory_comparisons",
    "trajectories_by_score",
    "graded_trajectories",
    "denoising_steps",
    "synthetic_transitions",
}
NOT_MADE_UP = {
    "attribute_comparisons",
    "attribute_windows",
    *PLAYED,
}  # what the made-up data do not hold
REWARDED = {"labelled_by_reward", "marked_by_reward", BOTH}  # what is drawn by the learned reward
DEFAULT_OBJECTIVE = {  # what configs/train.yaml says where none was chosen
    "objective": {"_target_": "pbrl.objectives.logistic", "_partial_": True, "bias": 0.5},
    "reward_objective": {"_target_": "pbrl.objectives.bradley_terry", "_partial_": True},
}


class Plan(NamedTuple):
    """What a run asks (None: nothing), and the sizes of the environment's observations and actions."""

    query: Query | None
    sizes: tuple[int, int]
    instruction: str = ""  # the environment's


class Draws(NamedTuple):
    """The names of what the phases of a learner draw, and whether any draws images."""

    names: set[str]
    images: bool


def validate(settings: RunSettings) -> Plan:
    """Checks a run's settings against each other. Raises UserError."""
    _check_values(settings)
    env = build(settings.env, flag="env")
    env.close()
    device, query = torch.device("cpu"), settings.query
    tiny = Spec(1, 1, (0.0,), (1.0,), 1, frames.image_shapes(settings.env))  # the parts find what is wrong with them
    reward = build_reward(settings, tiny)
    algo = build_algorithm(settings.algo, settings, settings.seed, tiny, device, reward)
    build_algorithm(settings.baseline, settings, settings.seed, tiny, device)
    draws = draws_of(algo.phases(1))
    learnt = draws_of(reward.phases()) if reward else draws
    asks = bool((learnt.names | draws.names) & ANSWERS)
    _check_learners(settings, draws, learnt, reward)
    _check_encoder(settings)
    _check_seeds(settings, algo, reward)
    _check_objectives(settings, algo, reward)
    if settings.only != "data" and asks:
        _check_source(settings, env)
    if settings.env.get("images"):
        _check_images(settings, draws)
    space = env.observation_space["state"] if settings.env.get("images") else env.observation_space
    return Plan(query if asks else None, (space.shape[0], env.action_space.shape[0]), env.instruction)


def _check_values(settings: RunSettings) -> None:
    pick_device(settings.device)
    wants_compile(settings.compile, 0)
    _check_reference(settings.reference, "reference")
    _check_reference(settings.feedback.get("reference") or {}, "feedback.reference")
    person = settings.feedback.get("person")
    if isinstance(person, dict):
        _check_reference(person.get("reference") or {}, "feedback.person.reference")
    if settings.reward_scale not in NORMALIZE:
        raise UserError(f"reward_scale={settings.reward_scale}: it is one of {', '.join(NORMALIZE)}")
    if settings.reward.get("normalize", "auto") not in ("auto", *NORMALIZE):
        raise UserError(f"reward.normalize={settings.reward['normalize']}: it is one of auto, {', '.join(NORMALIZE)}")
    for part in PARTS:
        if "_target_" not in getattr(settings, part):
            raise UserError(f"{part} names nothing to build: choose one of configs/{part}")
    if settings.data.get("behaviour"):
        check_part(settings.data["behaviour"], "data.behaviour")


def _check_reference(given: dict[str, Any], name: str) -> None:
    """Raises UserError where the settings of reference returns are none."""
    takes = inspect.signature(Reference).parameters
    check_names(name, given, set(takes) - {"table", "workers", "dataset", "folder", "discount"})
    check_values(given, hints_of(takes), f"{name}.")


def _check_learners(settings: RunSettings, draws: Draws, learnt: Draws, reward: Any) -> None:
    """Raises UserError where what the algorithm draws, or the reward model has learnt from, is not what is asked."""
    name, needs_answers = name_of(settings.algo), bool(draws.names & ANSWERS - {BOTH})
    asks = bool((learnt.names | draws.names) & ANSWERS)
    gives = reward.gives if reward else None
    if draws.names & REWARDED and gives != "reward":
        raise UserError(f"{name} asks a reward model about segments: choose reward=transformer or another")
    if draws.names & PLAYED and settings.reward.get("weights") == "simulation":
        raise UserError(
            "reward.weights=simulation trains an encoder on the run's own pictures, and the same one must see the "
            "policy's own episodes: name its file, which such a run leaves in data_dir, with reward.weights=…"
        )
    if needs_answers and reward:
        raise UserError(
            f"{name} learns from the answers themselves: drop reward=…, or choose algo=dppo, whose pairs a reward "
            "model compares, or algo=iql"
        )
    if (settings.query.kind == "attributes") != (gives == "attributes"):
        raise UserError(
            "answers about several attributes are what reward=attributes learns from, and nothing else does: "
            "query.kind=attributes reward=attributes, or neither"
        )
    if "rated" in draws.names and settings.query.kind != "rating":
        raise UserError(f"{name} weighs steps by ratings of segments: query.kind=rating, not {settings.query.kind}")
    if settings.query.kind == "triplet" and asks and "triplets" not in learnt.names:
        raise UserError(
            f"{name_of(settings.reward) or name} learns from what is better, and triplets say what is alike: choose "
            "reward=rapl, or query.kind=pair"
        )
    if settings.only == "answers" and not asks:
        of = f"a {name_of(settings.reward)}" if reward else "the true reward"
        raise UserError(f"only=answers: {name} on {of} asks nothing; choose algo=cpl, or reward=ensemble")
    if asks and not settings.feedback["_target_"] and settings.only != "data":
        raise UserError(
            f"{name if needs_answers else 'a reward model'} learns from answers, and feedback=none gives none: "
            "choose feedback=perfect or another teacher"
        )
    if needs_reward(settings.query.strategy) and not reward:
        raise UserError(
            f"query.strategy={settings.query.strategy} asks a reward ensemble: choose reward=ensemble, or "
            "query.strategy=uniform"
        )
    if settings.query.strategy.endswith("disagreement") and settings.reward.get("members", 1) < 2:
        raise UserError(
            f"query.strategy={settings.query.strategy} needs an ensemble: reward=ensemble, or of triplets reward=rapl, "
            "with reward.members=2 or more"
        )


def _check_encoder(settings: RunSettings) -> None:
    """Raises UserError where the weights of the reward's encoder are not there."""
    encoder, weights = settings.reward.get("encoder"), settings.reward.get("weights")
    if encoder is not None and weights != "simulation" and settings.only != "data":
        find_weights(encoder, weights)


def _check_seeds(settings: RunSettings, algo: Any, reward: Any) -> None:
    if settings.seeds == 1:
        return
    if is_eager(algo):
        raise UserError(f"{name_of(settings.policy)} trains one seed at a time: seeds=1, and a run each for others")
    if distributed.world_size() > 1:
        raise UserError("several processes share one seed's batches: with torchrun, seeds=1")
    if needs_reward(settings.query.strategy):
        raise UserError(
            f"query.strategy={settings.query.strategy} asks what one reward model is unsure of, and each seed has its "
            "own: query.strategy=uniform, or seeds=1"
        )
    if reward and pick_device(settings.device).type == "cuda" and not reward.phases()[0].compiles:
        raise UserError(f"on a GPU {type(reward).__name__} trains one seed at a time: seeds=1, or device=cpu")


def _check_objectives(settings: RunSettings, algo: Any, reward: Any) -> None:
    """Raises UserError where an objective was chosen that trains nothing, or has nothing of its kind to learn from."""
    unused = {
        "objective": f"{type(algo).__name__} has no objective to choose: drop objective…, or choose algo=cpl; a "
        "reward model's is objective@reward_objective=…",
        "reward_objective": "no reward model learns from answers: drop reward_objective…, or add reward=ensemble",
    }
    for part, learner in (("objective", algo), ("reward_objective", reward)):
        config = getattr(settings, part)
        takes = isinstance(vars(learner).get("objective"), Objective) if learner is not None else False
        if not takes and config != DEFAULT_OBJECTIVE[part]:
            raise UserError(unused[part])
        draws_answers = learner is not None and (learner is reward or reward is None)
        if takes and draws_answers and build_objective(config).segments > 2 and settings.query.kind == "pair":
            raise UserError(f"{name_of(config)} learns from lists: query.kind=ranking or rating")


def _check_source(settings: RunSettings, env: Any) -> None:
    """Raises UserError where the feedback source cannot answer what is asked."""
    source: FeedbackSource = build(settings.feedback, flag="feedback")
    if not source.kinds and not settings.store:
        raise UserError("feedback=stored takes answers from a store: name it with store=sqlite:///answers.sqlite")
    source.check(settings.query, env)


def check_store(settings: RunSettings) -> None:
    """Raises UserError where answers would be read from a file that is not there."""
    file = sqlite_file(settings.store or "")
    if name_of(settings.feedback) == "Stored" and file and not file.exists():
        raise UserError(f"store={settings.store}: there is no file {file} for feedback=stored to read answers from")


def _check_images(settings: RunSettings, draws: Draws) -> None:
    """Raises UserError where a learner would have to read images and cannot."""
    if settings.reward["_target_"] and "image_size" not in settings.reward:
        raise UserError(
            f"{name_of(settings.reward)} reads states and not images: choose reward=image, algo=cpl, or drop env.images"
        )
    if not draws.images:
        raise UserError(
            f"{name_of(settings.algo)} reads states and not images: choose algo=bc or cpl, or drop env.images"
        )


def check_sizes(settings: RunSettings, episode: Episode, plan: Plan) -> None:
    """Raises UserError where the data are of another environment, or hold nothing to learn from."""
    found = episode.obs.shape[1], episode.action.shape[1]
    if found == plan.sizes:
        return
    advice = "choose another data=… or env=…"
    if not found[0]:
        advice = "put name.npz with obs and action beside each name.mp4 (see configs/data/recordings.yaml)"
    raise UserError(
        f"data={settings.data['name']} has {found[0]} numbers per observation and {found[1]} per action, "
        f"and the environment {plan.sizes[0]} and {plan.sizes[1]}: {advice}"
    )


def draws_of(phases: list[Phase]) -> Draws:
    """What the phases draw, found by drawing from a few made-up steps. Raises UserError for batches of no size."""
    data = _RecordingData()
    for phase in phases:
        phase.draw(data)
    return data.draws


class _RecordingData(Data):
    """Made-up data of one number an observation and an action, which note what is drawn from them."""

    NOTED = ANSWERS | REWARDED | PLAYED | {"transitions", "windows", "chunks", "attribute_windows", "unlabelled"}

    def __init__(self) -> None:
        ones = np.ones((65, 1), np.float32)
        table = Table([Episode(0, ones, ones[1:], ones[1:, 0], False)], pictures=ones)
        super().__init__(table, torch.Generator())
        starts, zeros = np.arange(64)[:, None], np.zeros(64, np.int64)
        question = np.full(64, "f" * 32, object)
        self.draws = Draws(set(), False)
        self.set_labels(Labels(starts, np.arange(64.0), zeros, zeros, np.ones(64), question, ("",), 1, "ranking"))

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _RecordingData.NOTED:
            return found

        def draw(*args: Any, images: bool = False, frames: Frames | None = None, **kwargs: Any) -> Any:
            self.draws = Draws(self.draws.names | {name}, self.draws.images or images)
            return None if name in NOT_MADE_UP else found(*args, **kwargs)

        return draw
