"""Where the configs are, and a run's settings composed from them without the command line."""

import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pbrl.types import UserError

LINKED = Path(__file__).parent / "config_files"  # a link to configs/ in a checkout, files in an installed package
FOLDER = LINKED if LINKED.is_dir() else Path(__file__).parents[1] / "configs"


@cache
def register_environments() -> None:
    """Makes the environments of all installed packages choices of `env=`: entry points of "pbrl.environments"."""
    for entry in entry_points(group="pbrl.environments"):
        entry.load()()


def compose_config(*overrides: str, name: str = "train") -> dict[str, Any]:
    """What `python train.py <overrides>` would run with, as plain values. Raises UserError for unknown choices."""
    register_environments()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        try:
            config = compose(name, list(overrides))
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
        except (HydraException, OmegaConfBaseException) as error:
            from pbrl.run import listing

            raise UserError(listing.explain(error, lambda _: []) or str(error)) from error


def quote_addresses(arguments: list[str]) -> list[str]:
    """The command line's arguments, with quotes around a store's address that Hydra would not read without them."""
    return [re.sub(r"^(\+{0,2}store)=([^'\"\[{$].*[=,:(){}\[\]].*)$", _quote, argument) for argument in arguments]


def _quote(found: re.Match[str]) -> str:
    address = found[2].replace("\\", "\\\\").replace("'", "\\'")
    return f"{found[1]}='{address}'"
