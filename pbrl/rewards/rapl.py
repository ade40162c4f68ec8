"""RAPL: answers align what a frozen encoder sees with what people care about; likeness to preferred videos is reward.

Representation-Aligned Preference-based Learning, Tian et al. 2023, arXiv:2310.07932, and 2024, arXiv:2412.04835. A
head on an encoder's features learns from triplets, by the Bradley-Terry likelihood that the closer of two videos is the
more similar to a third: R(a; b) = -<P, C>, with P the optimal transport between their frames (models/transport.py).
A step's reward then is what its frame pays to be matched with the most similar of a few preferred videos.

Without `align` it is optimal transport on the frozen encoder; with `matching=goal` the distance to the mean of the
preferred videos' last frames, as in XIRL (Zakka et al. 2021, arXiv:2106.03911).
"""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from pbrl.data.table import NO_PICTURES, PICTURES, Table, scale_of
from pbrl.models.frozen import network_of
from pbrl.models.last_block import features_of, make_last_block, pass_size
from pbrl.models.layers import MLP, Linear
from pbrl.models.optim import Adam
from pbrl.models.transport import Transport
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, NotNegativeOrInfinite, Positive, Size
from pbrl.rewards.alignment import check_settings, make_head, split_episodes
from pbrl.rewards.per_step import ComparedReward, descend
from pbrl.rewards.preferred import Pick, find_preferred
from pbrl.rewards.pretraining import Pretraining
from pbrl.training.batches import Data, Frames
from pbrl.types import Comparisons, Metrics, Phase, Segment, Spec, UserError

PASS_ENTRIES = 4e6  # of plans at once, where nothing is learnt


class Match(NamedTuple):
    """T steps beside the preferred videos that their parts of the episode are most like, of at most M frames each.

    `cost` [T, M] are distances of embedded frames, `plan` [T, M] how a step's frame is spread over the video's, in rows
    that sum to 1; the step's reward is -sum_j plan * cost. NaN: the video has no such frame. `video` [T] are their
    numbers among the preferred ones.
    """

    cost: Tensor
    plan: Tensor
    video: Tensor


class RAPL(ComparedReward):
    """Videos are `frames` frames of a segment, embedded in `embedding` numbers by a linear map or one with `hidden`.

    Each of `members` embeds them on its own; they differ in where they began, and learn from the same answers.
    With `unfreeze` the encoder's last block is aligned too, with the rate `unfreeze_lr`; pictures are what it sees.
    `preferred` names episodes to be like (places or ids, or a file with one a line); null: the `videos` segments that
    explain the answers best. They are in the data set `preferred_from`, if there is one: see `load_beside`; with
    `adapt` features of its frames are standardized by their own mean and spread, in the manner of adaptive batch
    normalization (Li et al. 2016, arXiv:1603.04779). `metric`, `gamma`, `band`, `order` and `through_plan` are
    `Transport`'s. Features are divided by their spread in the data, of which those that hardly vary there have at least
    `least_spread` times the median: elsewhere they may vary more.
    """

    mean: Tensor
    std: Tensor
    preferred: Tensor  # [V, M, F] features of the preferred videos
    is_frame: Tensor  # [V, M] bool
    span: Tensor  # steps of the preferred videos

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
        frames: Size,
        align: bool,
        hidden: list[Size],
        embedding: Size,
        members: Size,
        least_spread: NotNegative,
        matching: Literal["transport", "goal"],
        metric: Literal["euclidean", "cosine"],
        gamma: NotNegativeOrInfinite,
        band: Positive,
        order: NotNegative,
        through_plan: bool,
        preferred: list[int | str] | str | None,
        preferred_from: str | None,
        adapt: bool,
        videos: Size,
        normalize: str,
        lr: Positive,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__(objective, context=1, normalize=normalize, steps=steps, batch_size=batch_size)
        check_settings(objective, encoder, frames, align or not unfreeze)
        block = make_last_block(unfreeze, encoder, weights, features, unfreeze_lr)
        features = features or network_of(encoder).SIZE
        self.shown, self.align, self.matching = Frames(frames), align, matching
        self.transport = Transport(metric, gamma, band, order, through_plan)
        self.pick, self.adapts, self.least_spread = Pick(preferred, videos), adapt, least_spread
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("preferred", torch.zeros(videos, frames, features))
        self.register_buffer("is_frame", torch.zeros(videos, frames, dtype=torch.bool))
        self.register_buffer("span", torch.zeros((), dtype=torch.long))
        self.head = make_head(features, embedding, hidden, members) if align else nn.Identity()
        self.log_scale = nn.Parameter(torch.zeros(()))  # of similarities as log-odds
        self.optim = Adam(self.parameters(), lr, weight_decay=weight_decay)
        self.block = block

    # Alignment

    def phases(self) -> list[Phase]:
        steps = self.steps if self.align else 0
        align = Phase("reward", steps, self.draw, self.update, before=self.measure, compiles=False)
        return [align, Phase("preferred videos", 0, self.draw, self.update, before=self.choose, compiles=False)]

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` triplets with the pictures of their segments."""
        return data.triplets(self.batch_size, frames=self.shown)

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the objective on how similar the second and the third are to the first: -log P by default."""
        optims = [self.optim] + ([self.block.optim] if self.block else [])
        size = pass_size(batch.segments.obs.images[PICTURES]) if self.block else len(batch.label)
        scores, loss = descend(batch, size, optims, self._compare)
        return {"loss": loss.mean(), "train_accuracy": agreement(scores.mean(0), batch.label)}

    def _compare(self, batch: Comparisons) -> tuple[Tensor, Tensor]:
        scores = self._likeness(self._features(batch.segments))  # [E, B, 2]
        return scores, self.objective(scores, batch.label, batch.confidence)

    def _likeness(self, features: Tensor) -> Tensor:
        """Features [B, 3, M, F] of triplets → how like the first the second and the third are, of each member
        [E, B, 2]."""
        a, b, c = self.embed(features).unbind(2)  # [E, B, M, D] each
        return self.log_scale.exp() * self.transport.similarity(a[:, :, None], torch.stack([b, c], 2))

    def _features(self, segment: Segment) -> Tensor:
        """A segment of pictures [..., L', 1, …] → [..., L', F]."""
        pictures = segment.obs.images[PICTURES]
        return (self.block(pictures) if self.block else pictures)[..., 0, :]

    def embed(self, features: Tensor) -> Tensor:
        """features [..., F] → each member's [E, ..., D], in which frames of the data are about as far apart as 1."""
        scale = 1 / (self.std * (2 * len(self.mean)) ** 0.5)
        with torch.autocast(features.device.type, enabled=False):  # differences from the mean are small
            if not isinstance(self.head, MLP):
                return ((features.float() - self.mean) * scale)[None]
            if len(self.head.layers) > 1:
                found = self.head((features.float() - self.mean) * scale)
                return found if self.head.ensemble else found[None]
            layer = cast(Linear, self.head.layers[0])  # a map of scaled features is a scaled map of features: fewer
            weight = scale[:, None] * layer.weight  # [F, D] or [E, F, D]
            found = features.float().flatten(0, -2) @ weight + (layer.bias - self.mean @ weight)[..., None, :]
            return found.reshape(-1, *features.shape[:-1], found.shape[-1])

    # Hooks

    @torch.no_grad()
    def measure(self, data: Data) -> None:
        """Takes the features' mean and spread in the data, before the encoder learns. Raises UserError."""
        pictures = data.table.pictures
        if pictures is None:
            raise UserError(NO_PICTURES)
        if self.block:
            self.block.check(pictures)
            if self.optim.count:
                return
        elif pictures.shape[1:] != self.mean.shape:
            raise UserError(
                f"reward.features={len(self.mean)}, and the table's pictures are {tuple(pictures.shape[1:])} each: "
                "reward=rapl reads the features of a frozen encoder"
            )
        for own, found in zip((self.mean, self.std), self._statistics(data.table), strict=True):
            own.copy_(found)

    @torch.no_grad()
    def adapt_to(self, table: Table) -> None:
        """From now on rewards are those of another robot, whose frames the table shows: their features are standardized
        by their own mean and spread. Preferred videos stay those of the first."""
        mean, std = self._statistics(table)
        self.preferred.copy_((self.preferred - self.mean) / self.std * std + mean)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def _statistics(self, table: Table) -> tuple[Tensor, Tensor]:
        """Mean and spread [F] of the features of a table's pictures. Raises UserError."""
        features = self._features_of(table).float().to(self.mean.device)
        spread = scale_of(features)
        return features.mean(0), spread.clamp(min=self.least_spread * float(spread.median()))

    def _features_of(self, table: Table) -> Tensor:
        """Features of all rows [R, F]. Raises UserError without pictures."""
        if table.pictures is None:
            raise UserError(NO_PICTURES)
        return features_of(self.block, table.pictures, self.mean.device)

    @torch.no_grad()
    def choose(self, data: Data) -> None:
        """Takes the preferred videos' frames. Raises UserError where there are none, or they are too short."""
        frames = self.preferred.shape[1]
        table, found = find_preferred(data, self.pick, lambda starts: self._similarities(data, starts))
        assert table.pictures is not None
        self.preferred.zero_()
        self.is_frame.fill_(False)
        for i, (first, steps) in enumerate(found):
            count = min(frames, steps + 1)
            rows = first + torch.linspace(0, steps, count).round().long()
            shown = table.pictures[rows.to(table.device)].to(self.mean.device)
            self.preferred[i, :count] = features_of(self.block, shown, self.mean.device).to(self.preferred)
            self.is_frame[i, :count] = True
        if self.adapts and table is not data.table:
            mean, std = self._statistics(table)
            self.preferred.copy_((self.preferred - mean) / std * self.std + self.mean)
        self.span.fill_(round(sum(steps for _, steps in found) / len(found)))

    # Reward

    def score(self, segment: Segment) -> Tensor:
        """segment of features [..., L', 1, F] → log-odds by likeness to the preferred videos: [E, ...]."""
        embedded = self.embed(self._features(segment))
        return -self.log_scale.exp() * self._pay(embedded, segment.mask).sum(-1)

    def segments(self, table: Table, starts: Tensor, length: int) -> Segment:
        return table.picture_segments(starts, length, **self.shown._asdict())

    @torch.no_grad()
    def label(self, table: Table) -> Tensor:
        """Every row's reward: [E, R]. An episode is matched in parts of about as many steps as the preferred videos."""
        features = self._features_of(table)
        rows, mask = split_episodes(table, int(self.span))  # [N, T]
        count = self.head.ensemble or 1 if isinstance(self.head, MLP) else 1
        reward = torch.zeros(count, table.row_count, device=table.device)
        size = max(1, int(PASS_ENTRIES / (count * rows.shape[1] * self.preferred[..., 0].numel())))
        for part, own in zip(rows.split(size), mask.split(size), strict=True):
            seen, shown = table.to_target((features[part], own))
            paid = self._pay(self.embed(seen), shown) * shown.sum(-1, keepdim=True)
            reward[:, part[own > 0]] = -paid.to(table.device)[:, own > 0]
        return reward

    @torch.no_grad()
    def match(self, table: Table, episode: int) -> Match:
        """How the steps of an episode, by its place in the table, are matched by the first member.

        Raises UserError where they are not.
        """
        if self.matching == "goal":
            raise UserError("reward.matching=goal compares with last frames alone: no frames are matched")
        table = self._seen(table)
        found = [self._match_part(table, rows) for rows in self._parts_of(table, episode)]
        return Match(*(torch.cat(own) for own in zip(*found, strict=True)))

    def _parts_of(self, table: Table, episode: int) -> list[Tensor]:
        """Rows [T] of each part of an episode."""
        parts = [rows[mask > 0] for rows, mask in zip(*split_episodes(table, int(self.span)), strict=True)]
        return [rows for rows in parts if table.episode[rows[0]] == episode]

    def _match_part(self, table: Table, rows: Tensor) -> Match:
        assert table.pictures is not None
        shown = self.is_frame[: self._count()]
        videos, own = self.embed(self.preferred[: len(shown)])[0], self.embed(table.to_target(table.pictures[rows]))[0]
        cost = self.transport.cost(own[None], videos)  # [V, T, M]
        plan = self.transport.plan(cost, own.new_ones(len(own)), shown)
        best = int((plan * cost).sum((1, 2)).argmin())
        gone = ~shown[best]
        share = len(own) * plan[best]
        return Match(
            cost[best].masked_fill(gone, torch.nan),
            share.masked_fill(gone, torch.nan),
            torch.full((len(own),), best, device=own.device),
        )

    @torch.no_grad()
    def score_pictures(self, table: Table, row: int, pictures: Tensor) -> Tensor:
        """[n] rewards of the step at a row, were its picture one of `pictures` [n, …], as the table has them; those of
        others stay as they are."""
        table = self._seen(table)
        assert table.pictures is not None
        rows = next(rows for rows in self._parts_of(table, int(table.episode[row])) if row in rows)
        features = table.to_target(table.pictures[rows]).float().expand(len(pictures), -1, -1).clone()
        at = int((rows == row).nonzero()[0, 0])
        features[:, at] = features_of(self.block, pictures, features.device).to(features)
        return -len(rows) * self._pay(self.embed(features), features.new_ones(len(rows)))[..., at].mean(0)

    def _pay(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """What each frame [E, ..., T, D] pays, in all as much as the video's distance to the preferred one it is most
        like: [E, ..., T]."""
        shown = self.is_frame[: self._count()]
        videos = self.embed(self.preferred[: len(shown)])  # [E, V, M, D]
        lead = [len(videos), *[1] * (embedded.ndim - 3)]
        if self.matching == "goal":
            last = videos[:, torch.arange(len(shown)), shown.sum(1) - 1]
            away = (embedded - last.mean(1).reshape(*lead, 1, -1)).norm(dim=-1) * mask
            return away / mask.sum(-1, keepdim=True)
        videos = videos.reshape(*lead, *videos.shape[1:])
        paid = self.transport.matched(embedded[..., None, :, :], videos, (mask > 0)[..., None, :], shown)  # [..., V, T]
        best = paid.sum(-1).argmin(-1)[..., None, None].expand(*paid.shape[:-2], 1, paid.shape[-1])
        return paid.gather(-2, best)[..., 0, :]

    def _count(self) -> int:
        """V, the number of preferred videos. Raises UserError where there is none yet."""
        count = int(self.is_frame.any(1).sum())
        if not count:
            raise UserError("reward=rapl has no preferred video yet: it takes them after it has learnt from answers")
        return count

    @torch.no_grad()
    def log_odds(self, table: Table, starts: Tensor, length: int) -> Tensor:
        if starts.shape[-1] != 3:
            return super().log_odds(table, starts, length)
        found, table = [], self._seen(table)
        for part in starts.split(max(1, int(PASS_ENTRIES / self.preferred.shape[1] ** 2))):
            shown = table.to_target(self.segments(table, part, length).obs.images[PICTURES][..., 0, :])
            second, third = self._likeness(shown).unbind(-1)
            found.append((third - second).to(starts.device))
        return torch.cat(found, 1)

    def _seen(self, table: Table) -> Table:
        """The table with features [R, F] as its pictures."""
        if not self.block:
            return table
        seen = table.view()
        seen.pictures = self._features_of(table)
        return seen

    def _similarities(self, data: Data, starts: Tensor) -> Tensor:
        """R of segments that begin at rows starts [n, 2]: [n]."""
        found, table = [], self._seen(data.table)
        for part in starts.split(max(1, int(PASS_ENTRIES / self.preferred.shape[1] ** 2))):
            shown = table.to_target(self.segments(table, part, data.length).obs.images[PICTURES][..., 0, :])
            a, b = self.embed(shown).unbind(2)  # [E, n, M, D] each
            found.append(self.transport.similarity(a, b).mean(0).to(starts.device))
        return torch.cat(found)
