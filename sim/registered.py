"""What a user names of a package of their own: a registered Gymnasium environment, its length, a scripted expert."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium

from pbrl.types import UserError


def make(id: str, module: str | None, kwargs: dict[str, Any]) -> gymnasium.Env:
    """The environment without a time limit, drawing frames where it can. Raises UserError."""
    if module is not None:
        load_module(module, "env.module")
    given: dict[str, Any] = {"max_episode_steps": -1, "disable_env_checker": True, **kwargs}
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of render modes that it has not
                return gymnasium.make(id, **{"render_mode": "rgb_array", **given})
        except TypeError:  # it takes no render_mode
            return gymnasium.make(id, **given)
    except gymnasium.error.UnregisteredEnv as error:
        advice = "name the package that registers it: env.module=my_package" if module is None else f"not in {module}"
        raise UserError(f"there is no Gymnasium environment {id} ({error}): {advice}") from error
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{id} needs a package that is not installed: {error}") from error
    except (gymnasium.error.Error, TypeError) as error:
        raise UserError(f"{id} cannot be made ({error}): its own arguments are given by env.kwargs") from error


def load_module(module: str, flag: str) -> Any:
    """The imported module. Raises UserError."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{flag}: {module} cannot be imported ({error}): install it, or put its folder on PYTHONPATH"
        ) from error


def load_expert(name: str) -> Callable[..., Any]:
    """What "package.module:function" names. Raises UserError."""
    module, _, attribute = name.partition(":")
    found = vars(load_module(module, "env.expert")).get(attribute) if attribute else None
    if not callable(found):
        raise UserError(f"env.expert={name} names nothing that can be called: write package.module:function")
    return found


def choose_horizon(id: str, given: int | None, own: int | None) -> int:
    """Steps until truncation. Raises UserError."""
    horizon = own if given is None else given
    if horizon is None or horizon < 1:
        raise UserError(f"{id} says no max_episode_steps: say how many steps an episode has with env.horizon=200")
    return horizon
