"""`python train.py env=… algo=… [reward=…] [feedback=…] [data=…]`: from data through answers to a policy.

Everything is a flag: see configs/. The same command goes on with a run that was stopped.
"""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

import sim.configs
from pbrl.run import train as run
from pbrl.types import UserError

sim.configs.register()


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        run.train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except UserError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
