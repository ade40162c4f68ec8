"""`python -m pbrl.judge env=… data=… rewards=runs/…`: how good a source of rewards or preferences is.

Of a run's reward model, of a rater's stored answers, of scores in a file, or of several of them side by side. Writes
judge.json, judge.png, episodes.png and index.html. Everything is a flag: see configs/judge.yaml.
"""

import hydra
from omegaconf import DictConfig

from pbrl import hydra_command
from pbrl.configs import FOLDER


@hydra.main(config_path=str(FOLDER), config_name="judge", version_base="1.3")
def main(config: DictConfig) -> None:
    """Judges as `judge.yaml` and the command line configure it."""
    from pbrl.judge.command import judge

    judge(hydra_command.to_plain(config))


if __name__ == "__main__":
    hydra_command.start(main, "judge.yaml")
