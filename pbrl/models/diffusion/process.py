"""How noise enters, and what a network learns to take out of it: DDPM, EDM and flow matching behind one interface.

All three noise alike, x_t = alpha(t) x + sigma(t) eps, and differ in alpha and sigma, in how times are drawn, and in
what the network predicts: eps (DDPM, Ho et al. 2020, arXiv:2006.11239), a preconditioned x (EDM, Karras et al. 2022,
arXiv:2206.00364) or the velocity eps - x (flow matching, Lipman et al. 2022, arXiv:2210.02747; rectified flow, Liu et
al. 2022, arXiv:2209.03003). A network is called with the noisy x [..., H, D] and its time as a number in [0, 1000].
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pbrl.models.diffusion.known import Known
from pbrl.types import UserError

Network = Callable[[Tensor, Tensor], Tensor]  # x [..., H, D], number of the time [...] → its prediction [..., H, D]
TIMES = 1000.0  # the range of times that networks are told
COSINE_OFFSET, LARGEST_BETA = 0.008, 0.999  # Nichol & Dhariwal 2021, arXiv:2102.09672


class Process(nn.Module):
    """A noising process. Times [...] are numbers of its own: larger is noisier; its `grid` says from where to where."""

    start_std = 1.0  # of the noise that sampling starts from
    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(()), persistent=False)  # on the process's device

    def alpha(self, time: Tensor) -> Tensor:
        """What is left of x at a time: [...] → [...]."""
        raise NotImplementedError

    def sigma(self, time: Tensor) -> Tensor:
        """The standard deviation of the noise at a time: [...] → [...]."""
        raise NotImplementedError

    def scale(self, time: Tensor) -> Tensor:
        """x_t / scale moves along a straight line if x is one point: the coordinates of Heun's method. [...] → [...]"""
        return self.alpha(time)

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Times to train at."""
        raise NotImplementedError

    def grid(self, steps: int) -> Tensor:
        """Times [steps + 1] to sample at, from noise to clean. Raises UserError."""
        raise NotImplementedError

    def told(self, time: Tensor) -> Tensor:
        """The time as networks are told it, in [0, 1000]."""
        raise NotImplementedError

    def noise(self, x: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        """x and eps [..., H, D], time [...] → x at that time [..., H, D]; they broadcast."""
        return spread(self.alpha(time)) * x + spread(self.sigma(time)) * eps

    def denoise(self, network: Network, x: Tensor, time: Tensor) -> Tensor:
        """Noisy x [..., H, D] at time [...] → the clean x that the network expects: [..., H, D] float32."""
        raise NotImplementedError

    def loss(self, network: Network, x: Tensor, time: Tensor, eps: Tensor, known: Known | None = None) -> Tensor:
        """x, eps [..., H, D] and time [...] → the weighted squared error of each number: [..., H, D] float32.

        It is not reduced: what counts how much is the caller's choice. Entries that are `known` have no error, and the
        network sees them as it will in sampling.
        """
        x, eps = torch.broadcast_tensors(x, eps)
        time = time.expand(x.shape[:-2])
        noisy = self.noise(x, time, eps)
        if known is None:
            return self._errors(network, x, noisy, time, eps)
        return torch.where(known.where, 0.0, self._errors(network, x, known.shown(noisy), time, eps))

    def _errors(self, network: Network, x: Tensor, noisy: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        raise NotImplementedError


class DDPM(Process):
    """Variance-preserving noise in `train_steps` steps; the network predicts eps. Time 0 is clean, `train_steps` noise.

    `betas` is squared_cosine or linear (from 1e-4 to 0.02 in 1000 steps, and as much noise in fewer).
    Raises UserError.
    """

    alphas: Tensor  # [train_steps + 1]
    sigmas: Tensor

    def __init__(self, *, betas: str, train_steps: int):
        super().__init__()
        if betas not in BETAS:
            raise UserError(f"betas={betas}: it is {' or '.join(BETAS)}")
        kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS[betas](train_steps)).cumprod(0)])
        self.train_steps = train_steps
        self.register_buffer("alphas", kept.sqrt().float(), persistent=False)
        self.register_buffer("sigmas", (1 - kept).sqrt().float(), persistent=False)

    def alpha(self, time: Tensor) -> Tensor:
        return look_up(self.alphas, time)

    def sigma(self, time: Tensor) -> Tensor:
        return look_up(self.sigmas, time)

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return torch.randint(1, self.train_steps + 1, tuple(shape), device=device)

    def grid(self, steps: int) -> Tensor:
        """Evenly from the last step to 0: "trailing" spacing, as sampling starts from pure noise (arXiv:2305.08891)."""
        if not 1 <= steps <= self.train_steps:
            raise UserError(f"{steps} steps of sampling do not fit a process of {self.train_steps}: take at most those")
        return torch.linspace(self.train_steps, 0, steps + 1, device=self.place.device).round().long()

    def told(self, time: Tensor) -> Tensor:
        return time * (TIMES / self.train_steps)

    def denoise(self, network: Network, x: Tensor, time: Tensor) -> Tensor:
        eps = network(x, self.told(time)).float()
        return (x - spread(self.sigma(time)) * eps) / spread(self.alpha(time))

    def _errors(self, network: Network, x: Tensor, noisy: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        return (network(noisy, self.told(time)).float() - eps).square()


class EDM(Process):
    """Noise without shrinking: a time is the noise's standard deviation itself, drawn from a log-normal to train at.

    Defaults of the paper's table 1; inputs and outputs are scaled so that the network's have unit variance (its eq. 7).
    """

    LEAST, MOST, RHO = 0.002, 80.0, 7.0
    LOG_MEAN, LOG_STD = -1.2, 1.2
    DATA_STD = 0.5
    start_std = MOST

    def alpha(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)

    def sigma(self, time: Tensor) -> Tensor:
        return time

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return (self.LOG_MEAN + self.LOG_STD * torch.randn(tuple(shape), device=device)).exp()

    def grid(self, steps: int) -> Tensor:
        """The paper's eq. 5, then 0."""
        most, least = self.MOST ** (1 / self.RHO), self.LEAST ** (1 / self.RHO)
        part = torch.arange(steps, device=self.place.device) / max(steps - 1, 1)
        return torch.cat([(most + part * (least - most)) ** self.RHO, self.place[None]])

    def told(self, time: Tensor) -> Tensor:
        least, most = math.log(self.LEAST), math.log(self.MOST)
        return TIMES / (most - least) * (time.log() - least)

    def denoise(self, network: Network, x: Tensor, time: Tensor) -> Tensor:
        sigma, data = spread(time), self.DATA_STD
        total = (sigma.square() + data**2).sqrt()
        out = network(x / total, self.told(time)).float()
        return (data / total) ** 2 * x + sigma * data / total * out

    def _errors(self, network: Network, x: Tensor, noisy: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        sigma, data = spread(time), self.DATA_STD
        weight = (sigma.square() + data**2) / (sigma * data) ** 2
        return weight * (self.denoise(network, noisy, time) - x).square()


class Flow(Process):
    """A straight line from x at time 0 to noise at time 1; the network predicts its velocity, eps - x.

    Times are drawn evenly (rectified flow).
    """

    def alpha(self, time: Tensor) -> Tensor:
        return 1 - time

    def sigma(self, time: Tensor) -> Tensor:
        return time

    def scale(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return torch.rand(tuple(shape), device=device)

    def grid(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, device=self.place.device)

    def told(self, time: Tensor) -> Tensor:
        return TIMES * time

    def denoise(self, network: Network, x: Tensor, time: Tensor) -> Tensor:
        return x - spread(time) * network(x, self.told(time)).float()

    def _errors(self, network: Network, x: Tensor, noisy: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        return (network(noisy, self.told(time)).float() - (eps - x)).square()


def look_up(table: Tensor, time: Tensor) -> Tensor:
    """table [T] at times [...]; a plain index of one number would leave the graph to read it."""
    return table.gather(0, time.reshape(-1)).view(time.shape)


def squared_cosine(steps: int) -> Tensor:
    """What each step adds of variance, so that alpha² falls as a squared cosine: [steps] float64 (arXiv:2102.09672)."""
    turn = (torch.arange(steps + 1, dtype=torch.float64) / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET)
    kept = torch.cos(turn * (math.pi / 2)).square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=LARGEST_BETA)


def linear(steps: int) -> Tensor:
    """The same of DDPM's paper, whose 1000 steps become `steps` of as much noise: [steps] float64."""
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64).mul(1000 / steps).clamp(max=LARGEST_BETA)


BETAS = {"squared_cosine": squared_cosine, "linear": linear}


def make_process(name: str, *, betas: str, train_steps: int) -> Process:
    """ddpm, edm or flow; `betas` and `train_steps` are of ddpm alone. Raises UserError."""
    if name == "ddpm":
        return DDPM(betas=betas, train_steps=train_steps)
    others = {"edm": EDM, "flow": Flow}
    if name not in others:
        raise UserError(f"process={name}: it is ddpm, {' or '.join(others)}")
    return others[name]()


def spread(time: Tensor) -> Tensor:
    """[...] → [..., 1, 1], as a factor of [..., H, D]."""
    return time[..., None, None]
