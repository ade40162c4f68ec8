"""`python -m pbrl.label.vlm store=… model=…`: a vision-language model answers questions about a data set.

Answers go to a store, from which training reads them: `train.py … feedback=stored store=…`; people may answer the same
questions at the page. Everything is a flag: see configs/label_vlm.yaml and configs/vlm.
"""

import os
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from pbrl.configs import FOLDER, quote_addresses, register_environments


@hydra.main(config_path=str(FOLDER), config_name="label_vlm", version_base="1.3")
def main(config: DictConfig) -> None:
    """Labels as `label_vlm.yaml` and the command line configure it."""
    from pbrl.label.by_model import label  # not above: the processes that draw import this module once more
    from pbrl.label.command import CommandLine
    from pbrl.types import UserError

    if config.model is not None:
        config.vlm.model = config.model
    try:
        label(OmegaConf.to_container(config, resolve=True, throw_on_missing=True), CommandLine.read())  # type: ignore[arg-type]
    except UserError as error:
        sys.exit(f"\n{error}")


def start() -> None:
    """Reads the command line."""
    register_environments()
    arguments = ["dry_run=true" if argument == "--dry-run" else argument for argument in sys.argv[1:]]
    sys.argv[1:] = quote_addresses(arguments)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on, and does not print them itself
    try:
        main()
    except Exception as error:
        from pbrl.run import listing

        if (words := listing.explain(error, lambda _: [])) is None:
            raise
        sys.exit(f"\n{words.replace('python train.py --help', 'configs/label_vlm.yaml')}")


if __name__ == "__main__":
    start()
