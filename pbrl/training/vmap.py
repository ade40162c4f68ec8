"""Several learners of one kind as one.

Updates are written for one learner. For several one is traced, its gradients included, into plain tensor operations,
which `torch.vmap` gives a leading axis. What each learner holds becomes a view of the shared tensors, so that it is
still evaluated, saved and loaded by itself.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from pbrl.types import Metrics, Update

aten = torch.ops.aten
DECOMPOSED = {aten.lerp_.Scalar: lambda x, end, weight: x.add_((end - x) * weight)}  # what `vmap` cannot do at once


class LearnerStack:
    """Learners of one kind, which differ in numbers alone; random numbers differ between them."""

    def __init__(self, learners: Sequence[nn.Module]):
        self.learners = learners
        self.tensors = share(learners)

    def update(self, update: Callable[[nn.Module, Any], Metrics], batch: Any) -> Update:
        """An update of all at once: a batch of [S, …] → metrics of [S]. `update` is that of one learner and its batch;
        `batch` [S, …] is an example, for its shapes."""
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second, which runs of one seed need not spend

        example = copy.deepcopy(self.learners[0])  # tracing an update makes it
        one = tree_map(lambda x: x[0], batch)
        gpus = range(torch.cuda.device_count())
        with torch.random.fork_rng(gpus), sdpa_kernel(SDPBackend.MATH):  # attention in operations that have a `vmap`
            traced = make_fx(lambda _, batch: update(example, batch), DECOMPOSED)(tensors(example), one)
        for node in traced.graph.nodes:
            if node.target in (aten.view.default, aten._unsafe_view.default):
                node.target = aten.reshape.default  # with one axis more it may not be a view
        traced.recompile()
        batched = torch.vmap(traced, randomness="different")
        return lambda batch: batched(self.tensors, batch)


def share(learners: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Moves what the learners hold into tensors [S, …], by name, of which theirs become views."""
    every = [tensors(learner) for learner in learners]
    shared = {name: torch.stack([own[name].data for own in every]) for name in every[0]}
    for i, own in enumerate(every):
        for name, tensor in own.items():
            tensor.data = shared[name][i]
    return shared


def tensors(learner: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a learner, by name."""
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
