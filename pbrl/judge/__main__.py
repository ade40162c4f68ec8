"""`python -m pbrl.judge env=… data=… rewards=runs/…`: how good a source of rewards or preferences is.

Of a run's reward model, of a rater's stored answers, of scores in a file, or of several of them side by side. Writes
judge.json and judge.png. Everything is a flag: see configs/judge.yaml.
"""

import os
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from pbrl.configs import FOLDER, quote_addresses, register_environments


@hydra.main(config_path=str(FOLDER), config_name="judge", version_base="1.3")
def main(config: DictConfig) -> None:
    """Judges as `judge.yaml` and the command line configure it."""
    from pbrl.judge.command import judge
    from pbrl.types import UserError

    try:
        judge(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
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
        sys.exit(f"\n{words.replace('python train.py --help', 'configs/judge.yaml')}")


if __name__ == "__main__":
    start()
