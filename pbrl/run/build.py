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
from pbrl.settings import Part, RunSettings
from pbrl.types import Spec, UserError

GIVEN = {"self", "spec", "policy", "objective", "scores", "label", "worth", "good"}  # what is handed to parts besides


def build(config: Part, *given: Any, **named: Any) -> Any:
    """The part that a config names, or None where it names none. Raises UserError."""
    if not config["_target_"]:
        return None
    check_keys(config)
    try:
        return instantiate(config, *given, **named, _convert_="all")
    except InstantiationException as error:  # a part's own sentence, without Hydra's around it
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def build_objective(config: Part) -> Objective:
    """The loss that a config names, and what it is a loss of."""
    return Objective(build(config))


def build_algorithm(algo: Part, settings: RunSettings, seed: int, spec: Spec, device: torch.device) -> Any:
    """An algorithm with the config's policy and objective where it takes them; initialized by the seed alone."""
    torch.manual_seed(seed)
    takes = parameters(algo)
    given: dict[str, Any] = {"policy": build(settings.policy, spec)} if "policy" in takes else {}
    if "objective" in takes:
        given["objective"] = build_objective(settings.objective)
    return build(algo, spec, **given).to(device)


def build_reward(settings: RunSettings, spec: Spec) -> Any:
    """The config's reward model with its objective, or None."""
    return build(settings.reward, spec, build_objective(settings.reward_objective))


def parameters(config: Part) -> Mapping[str, inspect.Parameter]:
    """The parameters of what a config names; a class that hands on keywords takes its parent's too."""
    target = get_object(config["_target_"])
    own = dict(inspect.signature(target).parameters)
    handed_on = [own.pop(name) for name, p in list(own.items()) if p.kind is p.VAR_KEYWORD]
    return {**inspect.signature(target.__base__).parameters, **own} if handed_on else own


def check_keys(config: Part) -> None:
    """Raises UserError when a part's config and its signature differ."""
    takes = {k: p for k, p in parameters(config).items() if k not in GIVEN}
    unknown = set(config) - set(takes) - {"_target_", "_partial_"}
    missing = {k for k, p in takes.items() if p.default is p.empty} - set(config)
    if unknown or missing:
        words = [f"has no {', '.join(sorted(unknown))}"] if unknown else []
        words += [f"needs {', '.join(sorted(missing))}"] if missing else []
        raise UserError(f"{config['_target_']} {' and '.join(words)}; it takes {', '.join(sorted(takes))}")


def name_of(config: Part) -> str:
    """The name of what a config names; empty for nothing."""
    return get_object(config["_target_"]).__name__ if config["_target_"] else ""


def digest(*parts: Any) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
