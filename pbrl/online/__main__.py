"""`python -m pbrl.online rewards=runs/a`: SAC in the run's environment, on the reward that the run has learnt.

Writes policy.pt, result.json, curve.png and the rest of a run's files. Everything is a flag: see configs/online.yaml.
The same command goes on where it was stopped.
"""

import hydra
from omegaconf import DictConfig

from pbrl import hydra_command
from pbrl.configs import FOLDER


@hydra.main(config_path=str(FOLDER), config_name="online", version_base="1.3")
def main(config: DictConfig) -> None:
    """Trains as `online.yaml` and the command line configure it."""
    from pbrl.online.command import train
    from pbrl.training import interrupts

    try:
        with interrupts.handled():
            train(hydra_command.to_plain(config))
    except interrupts.Stopped:
        interrupts.leave("\nstopped; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    hydra_command.start(main, "online.yaml")
