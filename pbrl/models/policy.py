"""What learners can train as a policy, and how a policy is saved and read back."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from pbrl import files
from pbrl.models.sentences import Sentences
from pbrl.types import Observation, Policy, Segment, Spec, UserError

MOVED = {  # classes of policies that were saved before their modules had these names
    "pbrl.likelihoods.GaussianPolicy": "pbrl.models.gaussian.GaussianPolicy",
    "pbrl.sequence.DecisionTransformer": "pbrl.models.decision_transformer.DecisionTransformer",
}


class LikelihoodPolicy(nn.Module):
    """A policy that acts, and says how likely actions are."""

    spec: Spec
    settings: dict[str, Any]  # its keyword arguments
    horizon: int = 1  # actions of a chunk, which it decides at once
    is_exact: bool = True  # whether its likelihoods are, or a bound of them that is drawn anew each time
    reads_words: bool = False  # whether it acts by the instruction
    execute: int = 1  # of them that are carried out before the next chunk
    is_single: bool = False  # whether it is on a server that answers one client at a time
    eager: bool = False  # whether its updates can be neither compiled nor stacked for several seeds

    def reset(self) -> None:
        """Starts an episode; a policy without memory has nothing to forget."""

    def looks(self) -> bool:
        """Whether the next `act` reads the images it is given; within a chunk it does not."""
        return True

    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """obs [B, O] → action [B, A] in [-1, 1]; with `explore`, or where it is true [B], drawn from the policy's
        distribution."""
        raise NotImplementedError

    def plan(self, obs: Observation) -> Tensor:
        """obs [B, O] → the next actions [B, K, A]; K is 1 where the policy decides step by step."""
        return self.act(obs)[:, None]

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., O], action [..., A] → the log-likelihood of each action, or a bound of it: [...]."""
        raise NotImplementedError

    def draw_chance(self, segment: Segment) -> Any:
        """What `score` of such segments draws at random, to be shared with another policy's; None where nothing is."""
        return None

    def score(self, segment: Segment, chance: Any = None) -> Tensor:
        """segment [..., L, …] → the log-likelihood of its actions, or a bound of it: [...].

        `chance` is a `draw_chance`; without one, a policy draws its own.
        """
        return (self.log_prob(segment.obs, segment.action) * segment.mask).sum(-1)

    def draw_chance_of_chunks(self, chunks: Segment) -> Any:
        """What `score_chunks` draws at random, to be shared with another policy's; None where nothing is."""
        return None

    def score_chunks(self, chunks: Segment, chance: Any = None) -> Tensor:
        """D chunks as they were decided, obs [..., O], action [..., K, A], mask [..., K] → the log-likelihood of what
        the mask leaves of each, or a bound of it: [...]. `chance` is a `draw_chance_of_chunks`."""
        assert self.horizon == 1, "a policy of chunks says itself how likely they are"
        return self.log_prob(chunks.obs, chunks.action[..., 0, :]) * chunks.mask[..., 0]

    def explore_from(self, seed: int) -> None:
        """What `act` draws next, when it explores, follows from this number."""
        torch.manual_seed(seed)

    def after_step(self) -> None:
        """Called in every update once its optimiser has moved it."""


def check_single_steps(policy: LikelihoodPolicy, algorithm: str) -> None:
    """Raises UserError where an algorithm weighs single steps and the policy decides chunks."""
    if policy.horizon > 1:
        raise UserError(
            f"{algorithm} weighs single steps, and policy.horizon={policy.horizon}: add policy.horizon=1 "
            "policy.execute=1 policy.layers=1, or choose algo=bc or cpl"
        )


def is_eager(learner: nn.Module) -> bool:
    """Whether a learner trains a policy whose updates cannot be compiled."""
    return any(isinstance(part, LikelihoodPolicy) and part.eager for part in learner.modules())


def save_policy(policy: Any, path: str | Path) -> None:
    """Writes all that is needed to run the policy. Raises UserError where a parameter is NaN: training diverged."""
    name = f"{type(policy).__module__}.{type(policy).__name__}"
    spec = {**asdict(policy.spec), "images": dict(policy.spec.images)}
    state = {key: value.clone() for key, value in policy.state_dict().items()}  # not the seeds whose memory it shares
    spoilt = [key for key, value in state.items() if value.isnan().any()]
    if spoilt:
        raise UserError(f"training diverged: {', '.join(spoilt)} of the policy are NaN, so {path} was not written")
    with files.replacing(Path(path)) as partial, open(partial, "wb") as file:
        torch.save({"class": name, "spec": spec, "settings": policy.settings, "state": state}, file)


def load_policy(path: str | Path, device: str = "cpu") -> Policy:
    """Reads a policy back, ready to act, or reaches one on a server: ws://…, or a yaml of one. Raises UserError."""
    if is_served(path):
        from pbrl.serving.client import load_served  # not above: it is a policy too

        return load_served(path)
    path = Path(path).expanduser()
    if path.is_dir():
        seeds = sorted(path.glob("seed*/policy.pt"))
        if seeds:
            raise UserError(f"{path} holds {len(seeds)} seeds: choose one of them, as in {seeds[0].parent}")
        path = path / "policy.pt"
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        name = str(saved["class"])
        name = MOVED.get(name, name)
        if not name.startswith("pbrl."):  # a file must not choose what code is run
            raise ValueError(f"{name} is none of pbrl's policies")
        policy = get_class(name)(read_spec(saved["spec"]), **saved["settings"])
        policy.load_state_dict(saved["state"])
    except UserError:  # in the policy's own words
        raise
    except FileNotFoundError:
        raise UserError(f"there is no policy at {path}; a finished run writes policy.pt into its folder") from None
    except Exception as error:
        raise UserError(f"{path} is not a policy that this version can read ({error})") from error
    return policy.to(device).eval()


def is_served(where: str | Path) -> bool:
    """Whether a policy's name is the address of a server, or a file that describes one."""
    return str(where).startswith(("ws://", "wss://")) or str(where).endswith((".yaml", ".yml"))


def load_same(path: str | Path, policy: LikelihoodPolicy) -> Any:
    """Reads back a policy that has the settings, sizes and words of this one. Raises UserError where it is another."""
    found: Any = load_policy(path)
    ours, theirs = (
        {"class": type(p).__name__, **p.settings, "cameras": dict(p.spec.images), "words": p.spec.vocabulary,
         "weights of sentences": p.spec.sentences and p.spec.sentences.weights, "observation": p.spec.obs_dim,
         "action": p.spec.action_dim} for p in (policy, found)
    )  # fmt: skip
    differs = [f"{key} ({theirs.get(key)}, here {value})" for key, value in ours.items() if theirs.get(key) != value]
    if differs:
        raise UserError(f"{path} is another policy than this run's: its {', '.join(differs)}; give policy=… as it had")
    return found


def read_spec(saved: dict[str, Any]) -> Spec:
    """A saved spec; of old ones, `steps` was the longest episode, `image` one shape for drop_name cameras."""
    spec = dict(saved)
    if "steps" in spec:
        spec["max_steps"] = spec.pop("steps")
        cameras, *shape = spec.pop("image", ()) or (0,)
        spec["images"] = {f"camera{i}": tuple(shape) for i in range(cameras)}
    if spec.get("sentences"):
        spec["sentences"] = Sentences(**spec["sentences"])
    return Spec(**spec)
