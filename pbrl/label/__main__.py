"""`python -m pbrl.label env=… data=…`: a page in the browser where people answer questions about a data set.

Answers go to a store, from which training reads them: `train.py … feedback=stored store=…`. Everything is a flag: see
configs/label.yaml.
"""

import hydra
from omegaconf import DictConfig

from pbrl import hydra_command
from pbrl.configs import FOLDER


@hydra.main(config_path=str(FOLDER), config_name="label", version_base="1.3")
def main(config: DictConfig) -> None:
    """Serves the labelling page as `label.yaml` and the command line configure it."""
    from pbrl.label.command import CommandLine
    from pbrl.label.serve import serve  # not above: the page's renderers import this module once more

    serve(hydra_command.to_plain(config), CommandLine.read())


if __name__ == "__main__":
    hydra_command.start(main, "label.yaml")
