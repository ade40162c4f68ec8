"""The parts that a config names, built."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from pbrl.objectives import Objective
from pbrl.ranges import check_values, hints_of
from pbrl.settings import Part, RunSettings
from pbrl.types import Spec, UserError

OF_SEGMENTS = "length", "context"  # settings in steps, of reward models; null: as segments have
GIVEN = {"self", "spec", "policy", "reward", "objective", "scores", "label", "worth", "good"}  # handed to parts besides


def build(config: Part, *given: Any, flag: str = "", **named: Any) -> Any:
    """The part that a config names, or None where it names none. `flag` is what it is called on the command line.

    Raises UserError.
    """
    if not config["_target_"]:
        return None
    check_part(config, flag)
    try:
        return instantiate(config, *given, **named, _convert_="all")
    except InstantiationException as error:  # a part's own sentence, without Hydra's around it
        cause = error.__cause__
        while isinstance(cause, InstantiationException):  # of a part in a part
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise


def build_objective(config: Part, flag: str = "objective") -> Objective:
    """The loss that a config names, and what it is a loss of."""
    return Objective(build(config, flag=flag))


def build_algorithm(
    algo: Part, settings: RunSettings, seed: int, spec: Spec, device: torch.device, reward: Any = None
) -> Any:
    """An algorithm with the config's policy and objective, and the run's reward model, where it takes them.

    It is initialized by the seed alone.
    """
    torch.manual_seed(seed)
    takes = parameters(algo)
    given: dict[str, Any] = {"policy": build(settings.policy, spec, flag="policy")} if "policy" in takes else {}
    if "objective" in takes:
        given["objective"] = build_objective(settings.objective)
    if "reward" in takes:
        given["reward"] = reward
    flag = "baseline" if algo is settings.baseline else "algo"
    return build(algo, spec, flag=flag, **given).to(device)


def build_reward(settings: RunSettings, spec: Spec, length: int | None = None) -> Any:
    """The config's reward model, with its objective where it takes one, or None.

    It learns from segments of `length` steps (None: those of the settings' questions).
    """
    if not settings.reward["_target_"]:
        return None
    reward = fit_to_segments(settings.reward, length or settings.query.learnt_length)
    given: dict[str, Any] = {}
    if "objective" in parameters(reward):
        given["objective"] = build_objective(settings.reward_objective, "reward_objective")
    return build(reward, spec, flag="reward", **given)


def fit_to_segments(reward: Part, length: int) -> Part:
    """A reward model's settings, with the `length` of segments for what is null of `OF_SEGMENTS`."""
    return {name: length if name in OF_SEGMENTS and value is None else value for name, value in reward.items()}


def parameters(config: Part) -> Mapping[str, inspect.Parameter]:
    """The parameters of what a config names; a class that hands on keywords takes its parent's too."""
    target = get_object(config["_target_"])
    own = dict(inspect.signature(target).parameters)
    handed_on = [own.pop(name) for name, p in list(own.items()) if p.kind is p.VAR_KEYWORD]
    return {**inspect.signature(target.__base__).parameters, **own} if handed_on else own


def check_part(config: Part, flag: str = "") -> None:
    """Raises UserError when a part's config and its signature differ, or a value is none that its parameter takes."""
    takes = {k: p for k, p in parameters(config).items() if k not in GIVEN}
    unknown = set(config) - set(takes) - {"_target_", "_partial_"}
    missing = {k for k, p in takes.items() if p.default is p.empty} - set(config)
    if unknown or missing:
        words = [f"has no {', '.join(sorted(unknown))}"] if unknown else []
        words += [f"needs {', '.join(sorted(missing))}"] if missing else []
        raise UserError(f"{config['_target_']} {' and '.join(words)}; it takes {', '.join(sorted(takes))}")
    check_values(config, hints_of(takes), f"{flag}." if flag else "")
    for name, inner in config.items():
        if isinstance(inner, dict) and "_target_" in inner:
            if not inner["_target_"]:
                raise UserError(f"{flag}.{name} names nothing to build: choose it with {flag}@{flag}.{name}=…")
            check_part(inner, f"{flag}.{name}" if flag else name)


def name_of(config: Part) -> str:
    """The name of what a config names; empty for nothing."""
    return get_object(config["_target_"]).__name__ if config["_target_"] else ""


def digest(*parts: Any) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
