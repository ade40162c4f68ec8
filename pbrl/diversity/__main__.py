"""`python -m pbrl.diversity env=… query.attributes=[speed,height]`: an archive of behaviours that differ.

Asks triplets or reads those of a store, learns two measures from them, and evolves sine waves that fill a grid over
these with good behaviours. Writes archive.npz, archive.png, index.html and the episodes that it shows. Everything is a
flag: see configs/diversity.yaml. The same command goes on where it was stopped.
"""

import os
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from pbrl.configs import FOLDER, quote_addresses, register_environments


@hydra.main(config_path=str(FOLDER), config_name="diversity", version_base="1.3")
def main(config: DictConfig) -> None:
    """Searches as `diversity.yaml` and the command line configure it."""
    from pbrl.diversity.command import search
    from pbrl.types import UserError

    try:
        search(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except UserError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped: the same command goes on from its last checkpoint")


def start() -> None:
    """Reads the command line."""
    register_environments()
    sys.argv[1:] = quote_addresses(sys.argv[1:])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on, and does not print them itself
    try:
        main()
    except Exception as error:
        from pbrl.run import listing

        if (words := listing.explain(error, lambda _: [])) is None:
            raise
        sys.exit(f"\n{words.replace('python train.py --help', 'configs/diversity.yaml')}")


if __name__ == "__main__":
    start()
