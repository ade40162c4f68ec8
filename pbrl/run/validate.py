"""What cannot work is found before anything is made, and said in a sentence."""

import inspect
import math
from typing import Any

import torch
from hydra.utils import get_class, get_object

from pbrl.data import frames as filmed
from pbrl.data.table import NORMALIZE
from pbrl.distributed import count
from pbrl.feedback.sources.reference import Reference, check_settings
from pbrl.feedback.strategies import needs_reward
from pbrl.objectives import RELATIVE
from pbrl.run.build import Config, build, learner, reward_model, signature
from pbrl.settings import Query, Schedule
from pbrl.training.engine import pick_device, wants_compile
from pbrl.types import Episode, PairsAndSteps, PreferenceBatch, Spec, UserError

PARTS = ("env", "feedback", "reward", "algo", "objective", "reward_objective", "policy", "baseline")
OWN = {
    "data",
    "query",
    "reference",
    "seed",
    "seeds",
    "data_seed",
    "bf16",
    "reward_scale",
}  # settings that are no part's
FREE = {
    "device", "threads", "workers", "compile", "only", "compare", "baseline", "video", "logger", "run", "store",
    "data_dir", "checkpoint_every",
}  # fmt: skip  # what may change when a run goes on; the rest makes it another run
UNCHOSEN = {  # what configs/train.yaml says where nobody chose
    "objective": {"_target_": "pbrl.objectives.logistic", "_partial_": True, "bias": 0.5},
    "reward_objective": {"_target_": "pbrl.objectives.bradley_terry", "_partial_": True},
}
# What parts are handed besides a config:
GIVEN = {"self", "spec", "policy", "objective", "scores", "label", "worth", "good"}


def check(config: Config) -> tuple[Query | None, Schedule, tuple[int, int]]:
    """Finds what cannot work before anything is made.

    Returns what is asked (None: nothing), the schedule, and the sizes of the environment's observations and actions.
    """
    check_names("the command line", config, {*PARTS, *FREE, *OWN, *inspect.signature(Schedule).parameters})
    check_names("query", config["query"], set(inspect.signature(Query).parameters))
    check_names("reference", config["reference"], set(inspect.signature(Reference).parameters))
    for part in PARTS:
        check_keys(part, config[part])
    schedule = Schedule(**{k: config[k] for k in inspect.signature(Schedule).parameters})
    eats = get_class(config["algo"]["_target_"]).batch
    eats_answers = eats in (PreferenceBatch, PairsAndSteps)
    has_reward, has_teacher = bool(config["reward"]["_target_"]), bool(config["feedback"]["_target_"])
    name = config["algo"]["_target_"].rsplit(".", 1)[1]
    if config["reward_scale"] not in NORMALIZE:
        raise UserError(f"reward_scale={config['reward_scale']}: it is one of {', '.join(NORMALIZE)}")
    if config["reward"].get("normalize", "auto") not in ("auto", *NORMALIZE):
        raise UserError(f"reward.normalize={config['reward']['normalize']}: it is one of auto, {', '.join(NORMALIZE)}")
    wants_compile(config["compile"], 0)
    if config["only"] not in (None, "data", "answers"):
        raise UserError(f"only={config['only']}: it is null, data or answers")
    if config["only"] == "answers" and not (eats_answers or has_reward):
        raise UserError(f"only=answers: {name} on the true reward asks nothing; choose algo=cpl, or reward=ensemble")
    if eats is PairsAndSteps and has_reward:
        raise UserError(f"{name} is its own reward model: drop reward=…, or choose algo=iql")
    if (eats_answers or has_reward) and not has_teacher and config["only"] != "data":
        raise UserError(
            f"{name if eats_answers else 'a reward model'} learns from answers, and feedback=none gives none: "
            "choose feedback=perfect or another teacher"
        )
    if needs_reward(config["query"]["strategy"]) and not has_reward:
        raise UserError(
            f"query.strategy={config['query']['strategy']} asks a reward ensemble: choose reward=ensemble, "
            "or query.strategy=uniform"
        )
    if not isinstance(config["seeds"], int) or config["seeds"] < 1:
        raise UserError(f"seeds={config['seeds']} must be a whole number, at least 1")
    if config["seeds"] > 1 and count() > 1:
        raise UserError("several processes share one seed's batches: with torchrun, seeds=1")
    if config["seeds"] > 1 and needs_reward(config["query"]["strategy"]):
        raise UserError(
            f"query.strategy={config['query']['strategy']} asks what one reward model is unsure of, and each seed has "
            "its own: query.strategy=uniform, or seeds=1"
        )
    device = pick_device(config["device"])
    recurrent = has_reward and getattr(get_class(config["reward"]["_target_"]), "eager", False)
    if config["seeds"] > 1 and device.type == "cuda" and recurrent:
        raise UserError("on a GPU reward=lstm trains one seed at a time: seeds=1, or device=cpu")
    ask = Query(**config["query"])
    env = build(config["env"])
    env.close()
    tiny = Spec(1, 1, (0.0,), (1.0,), 1, filmed.shape(config["env"]))  # the parts find what is wrong with their numbers
    check_objectives(
        config, ask, learner(config["algo"], config, tiny, torch.device("cpu")), reward_model(config, tiny)
    )
    if (eats_answers or has_reward) and config["only"] != "data":
        check_teacher(config, ask, env)
    if config["env"].get("images"):
        check_looks(name, config)
    space = env.observation_space["state"] if config["env"].get("images") else env.observation_space
    sizes = space.shape[0], env.action_space.shape[0]
    return (ask if eats_answers or has_reward else None), schedule, sizes


def check_fit(config: Config, episode: Episode, sizes: tuple[int, int]) -> None:
    """Raises UserError where the data are of another world than the environment's, or hold nothing to learn from."""
    found = episode.obs.shape[1], episode.action.shape[1]
    if found == sizes:
        return
    advice = "choose another data=… or env=…"
    if not found[0]:
        advice = "put name.npz with obs and action beside each name.mp4 (see configs/data/recordings.yaml)"
    raise UserError(
        f"data={config['data']['name']} has {found[0]} numbers per observation and {found[1]} per action, "
        f"and the environment {sizes[0]} and {sizes[1]}: {advice}"
    )


def check_looks(name: str, config: Config) -> None:
    """Raises UserError where somebody would have to look at images who cannot."""
    if config["reward"]["_target_"]:
        raise UserError("a reward model reads states and does not look at images: choose algo=cpl, or drop env.images")
    if not getattr(get_class(config["algo"]["_target_"]), "images", False):
        raise UserError(f"{name} reads states and does not look at images: choose algo=bc or cpl, or drop env.images")


def check_teacher(config: Config, ask: Query, env: Any) -> None:
    """Raises UserError where the teacher cannot answer what is asked, or would not do so as its settings say."""
    teacher = build(config["feedback"])
    if hasattr(teacher, "recall"):
        if not config["store"]:
            raise UserError("feedback=kept takes answers from a store: name it with store=sqlite:///answers.sqlite")
    elif hasattr(teacher, "answer") and ask.kind == "spans":
        raise UserError("scripted teachers mark no spans: feedback=human, or feedback=kept")
    elif (
        hasattr(teacher, "answer")
        and ask.kind == "rating"
        and not (teacher.beta == math.inf and teacher.mistake == teacher.equal == 0)
    ):
        raise UserError(
            "feedback.beta, feedback.mistake and feedback.equal are about comparisons: choose query.kind=pair, or a "
            "teacher that is always right"
        )
    if teacher.needs_value:
        check_settings(config["reference"])
        if env.expert is None and not config["reference"]["policy"]:
            raise UserError(
                "feedback=regret needs a scripted expert, which this environment has not: choose feedback=perfect, or "
                "reference.policy=<run folder>"
            )
    if ask.strategy.endswith("disagreement") and config["reward"].get("members", 1) < 2:
        raise UserError(
            f"query.strategy={ask.strategy} needs an ensemble: reward=ensemble, with reward.members=2 or more"
        )


def check_objectives(config: Config, ask: Query, algo: Any, reward: Any) -> None:
    """Raises UserError where an objective has nobody to train, or nothing of its kind to learn from."""
    nobody = {
        "objective": f"{type(algo).__name__} has no objective to choose: drop objective…, or choose algo=cpl; a "
        "reward model's is objective@reward_objective=…",
        "reward_objective": "there is no reward model: drop what is said of reward_objective, or add reward=ensemble",
    }
    for part, owner in (("objective", algo), ("reward_objective", reward)):
        name = config[part]["_target_"].rsplit(".", 1)[1]
        if not hasattr(owner, "objective"):
            if config[part] != UNCHOSEN[part]:
                raise UserError(nobody[part])
            continue
        k = owner.segments
        owner.objective(torch.zeros(1, max(k, 2)), torch.zeros(1) if k == 2 else torch.zeros(1, max(k, 2)))
        if k > 2 and ask.kind == "pair" and (owner is reward or reward is None):
            raise UserError(f"{name} learns from lists: query.kind=ranking or rating")
    relative = get_object(config["objective"]["_target_"]) in RELATIVE
    if relative and hasattr(algo, "objective") and not config["algo"].get("reference"):
        raise UserError(f"{config['objective']['_target_']} reads scores relative to a clone: add algo.reference=true")


def check_names(what: str, given: Config, known: set[str]) -> None:
    """Raises UserError where a name means nothing."""
    unknown = set(given) - known
    if unknown:
        raise UserError(f"{what} has no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}")


def check_keys(part: str, config: Config) -> None:
    """Raises UserError when a part's config and its signature differ."""
    if not config["_target_"]:
        return
    parameters = {k: p for k, p in signature(config).items() if k not in GIVEN}
    unknown = set(config) - set(parameters) - {"_target_", "_partial_"}
    missing = {k for k, p in parameters.items() if p.default is p.empty} - set(config)
    if unknown or missing:
        words = [f"has no {', '.join(sorted(unknown))}"] if unknown else []
        words += [f"needs {', '.join(sorted(missing))}"] if missing else []
        raise UserError(f"{part}: {config['_target_']} {' and '.join(words)}; it takes {', '.join(sorted(parameters))}")
