"""`python -m pbrl.label.vlm store=… model=…`: a vision-language model answers questions about a data set.

Answers go to a store, from which training reads them: `train.py … feedback=stored store=…`; people may answer the same
questions at the page. Everything is a flag: see configs/label_vlm.yaml and configs/vlm.
"""

import sys

import hydra
from omegaconf import DictConfig

from pbrl import hydra_command
from pbrl.configs import FOLDER


@hydra.main(config_path=str(FOLDER), config_name="label_vlm", version_base="1.3")
def main(config: DictConfig) -> None:
    """Labels as `label_vlm.yaml` and the command line configure it."""
    from pbrl.label.by_model import label  # not above: the processes that draw import this module once more
    from pbrl.label.command import CommandLine

    if config.model is not None:
        config.vlm.model = config.model
    label(hydra_command.to_plain(config), CommandLine.read())


if __name__ == "__main__":
    hydra_command.start(
        main, "label_vlm.yaml", ["dry_run=true" if word == "--dry-run" else word for word in sys.argv[1:]]
    )
