"""`python -m pbrl.label env=… data=…`: a page in the browser where people answer questions about a data set.

Answers go to a store, from which training reads them: `train.py … feedback=stored store=…`. Everything is a flag: see
configs/label.yaml.
"""

import os
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from pbrl.configs import FOLDER, quote_addresses, register_environments


@hydra.main(config_path=str(FOLDER), config_name="label", version_base="1.3")
def main(config: DictConfig) -> None:
    """Serves the labelling page as `label.yaml` and the command line configure it."""
    from pbrl.label.command import CommandLine
    from pbrl.label.serve import serve  # not above: the page's renderers import this module once more
    from pbrl.types import UserError

    try:
        serve(OmegaConf.to_container(config, resolve=True, throw_on_missing=True), CommandLine.read())  # type: ignore[arg-type]
    except UserError as error:
        sys.exit(f"\n{error}")


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
        sys.exit(f"\n{words.replace('python train.py --help', 'configs/label.yaml')}")


if __name__ == "__main__":
    start()
