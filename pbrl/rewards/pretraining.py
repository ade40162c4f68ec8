"""Pre-training of an image encoder on a data set's own frames, without any answers: VICReg on frames, TCC on episodes.

The file it leaves is found again by its content: frames, episodes, encoder and settings. A training that was killed
goes on from its last checkpoint, to the same weights bit for bit. `reward.weights=simulation` asks for it in a run,
`python -m pbrl.pretrain` ahead of one.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pbrl import files
from pbrl.models.augmentation import Augmentation
from pbrl.models.frozen import hash_images, make_encoder
from pbrl.models.layers import MLP
from pbrl.models.self_supervised import VICReg, tcc
from pbrl.ranges import Count, NotNegative, Positive, Seed, ShareBelow1, Size, Whole
from pbrl.training.precision import choose_precision
from pbrl.types import Episode, UserError

SAVE_EVERY = 25  # updates
CPU = torch.device("cpu")


class Videos(NamedTuple):
    """The frames [R, H, W, 3] uint8 of episodes, one after the other, of `lengths` frames each."""

    frames: np.ndarray
    lengths: Sequence[int]

    @classmethod
    def of(cls, frames: np.ndarray, episodes: Sequence[Episode]) -> "Videos":
        """The frames that show the rows of episodes."""
        return cls(frames, [len(episode.obs) for episode in episodes])

    def draw(self, videos: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames [V, T, H, W, 3] of `videos` episodes, or of all where there are fewer, and their times [V, T] in
        [0, 1]: of T equal parts of an episode one frame each."""
        chosen = torch.randperm(len(self.lengths), generator=generator)[:videos]
        length = torch.tensor(self.lengths)
        first = (length.cumsum(0) - length)[chosen, None]
        length = length[chosen, None]
        part = torch.arange(frames) + torch.rand(len(chosen), frames, generator=generator)
        step = torch.minimum((part * length / frames).long(), length - 1)
        pictures = torch.from_numpy(self.frames[(first + step).numpy()])
        return pictures, step / (length - 1).clamp(min=1)


class Pretraining:
    """`steps` updates on `frames` frames of each of `videos` episodes.

    `vicreg` and `tcc` weigh the two losses (0: without); `expander` and `embedding` are the sizes of what they see of
    the encoder's features. Raises UserError.
    """

    def __init__(
        self,
        *,
        vicreg: NotNegative,
        invariance: NotNegative,
        variance: NotNegative,
        covariance: NotNegative,
        expander: list[Size],
        tcc: NotNegative,
        embedding: Size,
        temperature: Positive,
        shift: Whole,
        brightness: ShareBelow1,
        contrast: ShareBelow1,
        saturation: ShareBelow1,
        videos: Size,
        frames: Size,
        lr: Positive,
        weight_decay: NotNegative,
        warmup: Whole,
        steps: Count,
        seed: Seed,
    ):
        if not vicreg and not tcc:
            raise UserError("reward.pretraining.vicreg=0 and reward.pretraining.tcc=0 leave nothing to train by")
        if not expander or videos * frames < 2:
            raise UserError("reward.pretraining takes two frames or more at once, and an expander of a layer or more")
        if tcc and videos < 2:
            raise UserError("TCC matches episodes with others: reward.pretraining.videos=2, or …tcc=0")
        self.vicreg, self.terms, self.expander = vicreg, VICReg(invariance, variance, covariance), expander
        self.tcc, self.embedding, self.temperature = tcc, embedding, temperature
        self.augment = Augmentation(shift, brightness, contrast, saturation)
        self.videos, self.frames, self.seed = videos, frames, seed
        self.lr, self.weight_decay, self.warmup, self.steps = lr, weight_decay, warmup, steps

    def find(self, data: Videos, encoder: str, folder: Path) -> Path:
        """The file in `folder` with an encoder's weights, trained if it is not there. Raises UserError."""
        if self.tcc and len(data.lengths) < 2:
            raise UserError("TCC matches episodes with others, and this data set has one: reward.pretraining.tcc=0")
        made_of = repr((encoder, hash_images(data.frames), list(data.lengths), sorted(vars(self).items())))
        path = Path(folder) / f"encoder-{encoder}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.pt"
        with files.lock(path):  # runs of a sweep train it once
            if not path.exists():
                checkpoint = path.with_suffix(".checkpoint")
                files.save(path, self.train(data, encoder, checkpoint))
                checkpoint.unlink(missing_ok=True)
        return path

    def train(self, data: Videos, encoder: str, checkpoint: Path) -> dict[str, Tensor]:
        """The encoder's state dict after all steps, without its classifier. Raises UserError."""
        state = Training(self, encoder)
        state.load(files.load(checkpoint, CPU))
        with tqdm(total=self.steps, initial=state.step, desc=f"pre-training {encoder}", unit="update") as bar:
            while state.step < self.steps:
                loss = state.update(*data.draw(self.videos, self.frames, state.generator))
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(1)
                if state.step % SAVE_EVERY == 0 and state.step < self.steps:
                    files.save(checkpoint, state.save())
        found, classifier = state.net["encoder"].state_dict(), state.classifier
        return {key: value for key, value in found.items() if not key.startswith(classifier)}


class Training:
    """A pre-training on its way."""

    def __init__(self, recipe: Pretraining, encoder: str):
        self.recipe, self.step = recipe, 0
        network = make_encoder(encoder, seed=recipe.seed)
        self.classifier = network.CLASSIFIER
        with torch.random.fork_rng([]):
            torch.manual_seed(recipe.seed)
            expander = Expander(network.SIZE, recipe.expander)
            head = MLP(network.SIZE, recipe.embedding, [])
        self.net = nn.ModuleDict({"encoder": network, "expander": expander, "head": head})
        trained = [p for name, p in self.net.named_parameters() if not name.startswith(f"encoder.{self.classifier}")]
        self.optim = torch.optim.AdamW(trained, recipe.lr, weight_decay=recipe.weight_decay)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.bf16 = choose_precision("auto", CPU).bf16

    def update(self, pictures: Tensor, time: Tensor) -> float:
        """A step down the losses of frames [V, T, H, W, 3] at times [V, T]; returns their sum."""
        recipe, flat = self.recipe, pictures.flatten(0, 1)
        views = [recipe.augment(flat, self.generator) for _ in range(2 if recipe.vicreg else 1)]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            features = self.net["encoder"](torch.cat(views)).float()
        loss = features.new_zeros(())
        if recipe.vicreg:
            loss = loss + recipe.vicreg * recipe.terms(*self.net["expander"](features).chunk(2))
        if recipe.tcc:
            videos = self.net["head"](features[: len(flat)]).unflatten(0, time.shape)
            loss = loss + recipe.tcc * tcc(videos, time, recipe.temperature)
        for group in self.optim.param_groups:
            group["lr"] = recipe.lr * self.rate()
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        self.step += 1
        return float(loss.detach())

    def rate(self) -> float:
        """The share of the learning rate: it rises linearly in the warm-up, and falls to zero as a cosine."""
        warmup = min(1.0, (self.step + 1) / (self.recipe.warmup + 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * self.step / self.recipe.steps))

    def save(self) -> dict[str, Any]:
        """All that the training goes on from."""
        return {"net": self.net.state_dict(), "optim": self.optim.state_dict(), "step": self.step,
                "generator": self.generator.get_state(), "bf16": self.bf16}  # fmt: skip

    def load(self, state: dict[str, Any] | None) -> None:
        """Goes on from what `save` gave; from the beginning with None."""
        if state is not None:
            self.net.load_state_dict(state["net"])
            self.optim.load_state_dict(state["optim"])
            self.generator.set_state(state["generator"])
            self.step, self.bf16 = state["step"], state["bf16"]


class Expander(nn.Sequential):
    """Features [N, F] → embeddings [N, D], by linear layers with batch normalization and ReLUs between them."""

    def __init__(self, features: int, sizes: Sequence[int]):
        layers: list[nn.Module] = []
        for inputs, outputs in zip((features, *sizes[:-1]), sizes, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        super().__init__(*layers[:-2])
