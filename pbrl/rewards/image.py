"""A reward of what a camera sees: an ensemble of convolutional networks on single frames or short stacks.

RL-VLM-F, Wang et al. 2024, arXiv:2402.03681, whose network this is: four convolutions, one number, tanh. With features
of a frozen encoder in place of pixels it is a multilayer perceptron on them.
"""

import torch
from torch import Tensor, nn

from pbrl.data.table import NO_PICTURES, PICTURES, Table
from pbrl.models.encoders import ConvEnsemble
from pbrl.models.frozen import network_of
from pbrl.models.last_block import make_last_block, pass_size
from pbrl.models.layers import MLP
from pbrl.models.optim import Adam
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, Positive, Size, Whole
from pbrl.rewards.per_step import ComparedReward, descend
from pbrl.rewards.pretraining import Pretraining
from pbrl.training.batches import Data, Frames
from pbrl.types import Comparisons, Metrics, Segment, Spec, UserError

START = 1e-3  # of the last layer's weights: rewards begin near zero
PASS_BYTES = 4.5e6  # of pictures in a pass of an update on a processor, whose caches hold no more
CHUNK_BYTES = 64e6  # of pictures that go through the networks at once, where nothing is learnt


class ImageReward(ComparedReward):
    """`members` networks on a frame of `image_size` pixels, or on it and the `stack` - 1 frames before it.

    A segment's score is the sum over its steps, of which `frames` are looked at (0: all; see
    `Table.picture_segments`). `camera` and `encoder` say what the run loads: pixels of the camera (encoder: null), or
    the features that a frozen encoder makes of them, `features` numbers each (null: as many as it makes). With
    `unfreeze` the members share its last block, which learns with the rate `unfreeze_lr`.
    """

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        camera: str | None,
        image_size: Size,
        encoder: str | None,
        weights: str | None,
        unfreeze: bool,
        unfreeze_lr: NotNegative,
        pretraining: Pretraining,
        features: Size | None,
        stack: Size,
        frames: Whole,
        members: Size,
        channels: list[Size],
        hidden: list[Size],
        bounded: bool,
        normalize: str,
        lr: Positive,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__(objective, context=1, normalize=normalize, steps=steps, batch_size=batch_size)
        self.shown, self.bounded, self.is_pixels = Frames(frames, stack), bounded, encoder is None
        block = make_last_block(unfreeze, encoder, weights, features, unfreeze_lr)
        if encoder is None:
            shape = (3 * stack, image_size, image_size)
            self.encode: nn.Module = ConvEnsemble(shape, channels, members)
            self.head = MLP(self.encode.size, 1, [], ensemble=members)
        else:
            self.encode = nn.Identity()
            self.head = MLP((features or network_of(encoder).SIZE) * stack, 1, hidden, ensemble=members)
        nn.init.uniform_(self.head.layers[-1].weight, -START, START)  # type: ignore[arg-type]
        nn.init.uniform_(self.head.layers[-1].bias, -START, START)  # type: ignore[arg-type]
        self.optim = Adam(self.parameters(), lr)
        self.members, self.block = members, block

    def of_pictures(self, pictures: Tensor) -> Tensor:
        """pictures [..., S, H, W, 3] uint8, features [..., S, F] or maps [..., S, …] → members' reward [E, ...]."""
        if self.is_pixels:
            lead = pictures.shape[:-4]
            encoded = self.encode(pictures.reshape(-1, *pictures.shape[-4:]))  # [E, N, F]
            out = self._head(encoded).reshape(self.members, *lead)
        else:
            seen = self.block(pictures) if self.block else pictures
            out = self.head(seen.flatten(-2).float()).squeeze(-1)
        return torch.tanh(out.float()) if self.bounded else out.float()

    def _head(self, encoded: Tensor) -> Tensor:
        """Each member's own features [E, N, F] → [E, N]."""
        return self.head.layers[-1](encoded).squeeze(-1)

    def score(self, segment: Segment) -> Tensor:
        """segment of pictures [..., L', S, …], whose mask says for how many steps each stands → [E, ...]."""
        return (self.of_pictures(segment.obs.images[PICTURES]) * segment.mask).sum(-1)

    def segments(self, table: Table, starts: Tensor, length: int) -> Segment:
        return table.picture_segments(starts, length, **self.shown._asdict())

    @torch.no_grad()
    def score_at(self, table: Table, starts: Tensor, length: int) -> Tensor:
        shown = starts[0].numel() * (min(self.shown.frames, length) or length) * self.shown.stack
        parts = starts.split(max(1, int(CHUNK_BYTES / (shown * self._row_bytes(table)))))
        scores = [self.score(table.to_target(self.segments(table, part, length))) for part in parts]
        return torch.cat(scores, 1).to(table.device)

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` answers with the pictures of their segments."""
        return self.objective.draw(data, self.batch_size, frames=self.shown)

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the sum of the members' losses on the segments' rewards."""
        optims = [self.optim] + ([self.block.optim] if self.block else [])
        scores, loss = descend(batch, self._at_once(batch), optims, self._look)
        return {"loss": loss.mean(), "train_accuracy": agreement(scores.mean(0), batch.label)}

    def _look(self, batch: Comparisons) -> tuple[Tensor, Tensor]:
        scores = self.score(batch.segments)  # [E, B, K]
        return scores, self.objective(scores, batch.label, batch.confidence)

    def _at_once(self, batch: Comparisons) -> int:
        """How many answers' pictures a pass takes: on a processor as many as its caches hold, with what is made."""
        pictures = batch.segments.obs.images[PICTURES]
        if self.block:
            return pass_size(pictures)
        if not self.is_pixels or pictures.device.type != "cpu":
            return len(pictures)
        return max(1, min(len(pictures), int(PASS_BYTES / pictures[0].numel())))

    @torch.no_grad()
    def label(self, table: Table) -> Tensor:
        """Each member's reward of every row, each looked at once: [E, R]. Raises UserError without pictures."""
        count = max(1, int(CHUNK_BYTES / (self.shown.stack * self._row_bytes(table))))
        parts = torch.arange(table.row_count, device=table.device).split(count)
        found = []
        for rows in parts:
            shown = table.picture_segments(rows, 1, stack=self.shown.stack).obs.images[PICTURES]
            found.append(self.of_pictures(table.to_target(shown)[:, 0]).to(table.device))
        return torch.cat(found, 1)

    @torch.no_grad()
    def score_pictures(self, table: Table, row: int, pictures: Tensor) -> Tensor:
        """The reward of the step at a row, were it to show one of `pictures` [n, …]; the members' mean: [n]."""
        at = torch.tensor([row], device=table.device)
        shown = table.to_target(table.picture_segments(at, 1, stack=self.shown.stack).obs.images[PICTURES][0, 0])
        stacks = shown.expand(len(pictures), *shown.shape).clone()
        stacks[:, -1] = pictures.to(stacks)
        return self.of_pictures(stacks).mean(0)

    def _row_bytes(self, table: Table) -> int:
        if table.pictures is None:
            raise UserError(NO_PICTURES)
        if self.block:
            self.block.check(table.pictures)
        return table.pictures[0].numel() * (16 if self.is_pixels or self.block else 4)  # as floats, and what is made
