"""`python -m pbrl.diversity env=… query.attributes=[speed,height]`: an archive of behaviours that differ.

Asks triplets or reads those of a store, learns two measures from them, and evolves sine waves that fill a grid over
these with good behaviours. Writes archive.npz, archive.png, index.html and the episodes that it shows. Everything is a
flag: see configs/diversity.yaml. The same command goes on where it was stopped.
"""

import sys

import hydra
from omegaconf import DictConfig

from pbrl import hydra_command
from pbrl.configs import FOLDER


@hydra.main(config_path=str(FOLDER), config_name="diversity", version_base="1.3")
def main(config: DictConfig) -> None:
    """Searches as `diversity.yaml` and the command line configure it."""
    from pbrl.diversity.command import search

    try:
        search(hydra_command.to_plain(config))
    except KeyboardInterrupt:
        sys.exit("\nstopped: the same command goes on from its last checkpoint")


if __name__ == "__main__":
    hydra_command.start(main, "diversity.yaml")
