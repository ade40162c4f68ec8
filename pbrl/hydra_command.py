"""What the commands `python -m pbrl.…` that Hydra configures have in common."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pbrl.configs import quote_addresses, register_environments
from pbrl.types import UserError


def start(main: Callable[[], None], config: str, arguments: Sequence[str] | None = None) -> None:
    """Runs a function that Hydra decorated on the command line, or on these arguments; what the user can mend ends in a
    sentence. `config` is the file that says what there is to set."""
    register_environments()
    sys.argv[1:] = quote_addresses(list(sys.argv[1:] if arguments is None else arguments))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on, and does not print them itself
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
    except Exception as error:
        from pbrl.run import listing

        if (words := listing.explain(error, lambda _: [])) is None:
            raise
        sys.exit(f"\n{words.replace('python train.py --help', f'configs/{config}')}")


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain values; an error where one is missing."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
