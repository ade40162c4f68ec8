"""The parts that a config names, built."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from pbrl.types import Spec, UserError

Config = dict[str, Any]


def build(config: Config, *given: Any, **named: Any) -> Any:
    """The part that a config names, or None where it names none."""
    if not config["_target_"]:
        return None
    try:
        return instantiate(config, *given, **named, _convert_="all")
    except InstantiationException as error:  # a part's own sentence, without Hydra's around it
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def signature(config: Config) -> Mapping[str, inspect.Parameter]:
    """The parameters of what a config names; a class that hands on keywords takes its parent's too."""
    target = get_object(config["_target_"])
    own = dict(inspect.signature(target).parameters)
    handed_on = [own.pop(name) for name, p in list(own.items()) if p.kind is p.VAR_KEYWORD]
    return {**inspect.signature(target.__base__).parameters, **own} if handed_on else own


def learner(algo: Config, config: Config, spec: Spec, device: torch.device) -> Any:
    """An algorithm with the config's policy and objective where it takes them; initialised by the seed alone."""
    torch.manual_seed(config["seed"])
    takes = signature(algo)
    given = {"policy": build(config["policy"], spec)} if "policy" in takes else {}
    if "objective" in takes:
        given["objective"] = build(config["objective"])
    return build(algo, spec, **given).to(device)


def reward_model(config: Config, spec: Spec) -> Any:
    """The config's reward model with its objective, or None."""
    return build(config["reward"], spec, build(config["reward_objective"]))


def digest(*parts: Config) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
