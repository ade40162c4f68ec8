"""Trains an image encoder on a data set's own frames, without any answers, and says where its weights are.

    python -m pbrl.pretrain env=franka/group data=styles reward=rapl reward.encoder=resnet18

Flags are those of train.py, which trains the same where the weights are not there yet (reward.weights=simulation);
reward.pretraining.… are the recipe's. What was stopped goes on with the same command.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pbrl.configs import compose_config
from pbrl.data import collect
from pbrl.data.rollout import worker_count
from pbrl.models.frozen import hash_weights, network_of
from pbrl.rewards.pictures import load_camera
from pbrl.rewards.pretraining import Pretraining, Videos
from pbrl.run.build import build
from pbrl.settings import RunSettings
from pbrl.types import UserError


def pretrain(*flags: str) -> tuple[Path, str]:
    """The file with the weights, and its SHA-256. Raises UserError."""
    settings = RunSettings.parse(compose_config(*flags))
    encoder = settings.reward.get("encoder")
    if encoder is None:
        raise UserError("no encoder to train: add reward=rapl or reward=image, and reward.encoder=resnet18")
    network_of(encoder)
    recipe: Pretraining = build(settings.reward["pretraining"], flag="reward.pretraining")
    beside: dict[str, Any] = {"folder": settings.data_dir, "workers": worker_count(settings.workers)}
    episodes, dataset = collect.load_dataset(settings.env, settings.data, seed=settings.data_seed, **beside)
    images = load_camera(settings.env, settings.reward, episodes, dataset, **beside)
    path = recipe.find(Videos.of(images, episodes), encoder, settings.data_dir)
    return path, hash_weights(encoder, str(path))


def main() -> None:
    """Trains as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flags", nargs="*", help="of train.py: env=…, data=…, reward=…")
    path, weights_hash = pretrain(*parser.parse_args().flags)
    print(f"{path}\nSHA-256 {weights_hash}; take it with reward.weights={path}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
