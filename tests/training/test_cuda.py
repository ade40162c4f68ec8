"""What a GPU does otherwise: launches of many updates, a table that does not fit. Most run where there is one."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_map

from pbrl.data import table as tables
from pbrl.data.table import Table, choose_device
from pbrl.training.engine import AT_ONCE, CapturedUpdates, Engine, Updates
from pbrl.training.vmap import LearnerStack
from pbrl.types import Transitions
from tests.algos.test_learners import CASES, title
from tests.data.test_table import EPISODES
from tests.parts import build, config, draw_batches, phases, without_chance
from tests.training.test_loop import RUNS, assert_same, outcome, train

GPU = torch.device("cuda")


class Replayed(CapturedUpdates):
    """Makes at each replay what a graph would hold: all but the capture itself, without a GPU."""

    def _run_on_side_stream(self, most):
        return Updates._run_some(self, most)

    def _capture(self, count):
        recorded, self.captures = self, [*getattr(self, "captures", []), count]

        class Graph:
            def replay(self):
                for _ in range(count):
                    drawn = recorded.draw() if recorded.generators else recorded.batch
                    recorded.mean.add(recorded.update(drawn))

        return Graph()


def drawer(learner, device):
    """Draws one of a hundred batches at random, and the generator that it uses."""
    kept = tree_map(lambda *parts: torch.stack(parts).to(device), *draw_batches(learner, 100))
    generator = torch.Generator(device).manual_seed(3)

    def draw():
        i = torch.randint(100, (), generator=generator, device=device)
        return tree_map(lambda x: x[i], kept)

    return draw, generator


@pytest.mark.parametrize("inside", [True, False])
def test_launches_add_up(inside):
    """However many updates a launch makes, they are those that were asked for, on the batches that were drawn."""
    plain = build("algo/iql")
    other = copy.deepcopy(plain)
    draw, _ = drawer(plain, "cpu")
    again, generator = drawer(other, "cpu")
    one, many = Updates(draw, plain.update), Replayed(again, other.update, [generator] if inside else [])
    for most in (1, 3, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 3, 1):
        for updates in (one, many):
            left = most
            while left:
                left -= updates.run(left)
                assert left >= 0
        a, b = one.read(), many.read()
        assert_same(a, b)
    assert many.captures == ([1, AT_ONCE] if inside else [1])
    many.forget()
    many.run(AT_ONCE)
    assert many.captures == ([1, AT_ONCE, AT_ONCE] if inside else [1])  # batches from the host are copied in anyway


def test_where_a_table_lies(monkeypatch):
    """By how much memory a GPU is said to have, so that both sides of the bound are tried, and without a GPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 1000))
    cpu = torch.device("cpu")
    assert choose_device(GPU, 500) == GPU and choose_device(GPU, 501) == cpu == choose_device(cpu, 10**18)


@pytest.mark.cuda
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("case", CASES, ids=title)
def test_captured_is_eager(case, several):
    """A launch of many updates, each drawing its own batch, does what as many eager ones do."""
    name, changes = case
    if several and name == "reward/lstm":
        pytest.skip("refused: cuDNN's recurrent networks have no axis to spare")
    part, choice = name.split("/")
    plain = without_chance(name)
    found = []
    for compile in (False, True):
        learners = [build(name, **plain, **changes).to(GPU) for _ in range(2 if several else 1)]
        draws, generators = zip(*(drawer(learner, GPU) for learner in learners), strict=True)
        engine = Engine(GPU, compile=compile, bf16=False)
        if several:
            draw = lambda of=draws: tree_map(lambda *parts: torch.stack(parts), *(d() for d in of))  # noqa: E731
            states = [g.get_state() for g in generators]
            update = engine.prepare_stack(LearnerStack(learners), phases(learners[0])[-1], draw())
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        else:
            draw, update = draws[0], engine.prepare(phases(learners[0])[-1])
        running = engine.repeat(draw, update, generators)
        left = 2 * AT_ONCE + 5
        while left:
            left -= running.run(left)
        found.append((running.read(), [learner.state_dict() for learner in learners]))
    (a, states), (b, others) = found
    if "eta" in config(f"{part}={choice}")[part]:
        return  # which critic pulls is drawn from another generator
    torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(states, others, rtol=2e-2, atol=1e-3)


@pytest.mark.cuda
def test_a_table_that_does_not_fit_gives_the_same_batches(monkeypatch):
    on_gpu = Table(EPISODES, GPU)
    monkeypatch.setattr(tables, "choose_device", lambda device, size: torch.device("cpu"))
    on_host = Table(EPISODES, GPU)
    assert on_gpu.obs.is_cuda and not on_host.obs.is_cuda
    a, b = on_gpu.transitions(on_gpu.rows), on_host.transitions(on_host.rows)
    assert isinstance(b, Transitions) and b.obs.state.is_cuda
    assert_same([*a], [*b])
    assert_same([*on_gpu.windows(on_gpu.rows, 4)], [*on_host.windows(on_host.rows, 4)])


@pytest.mark.cuda
@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("name", ["cpl", "piql-in-rounds", "dppo", "ipl", "dtr", "three-seeds"])
def test_a_run_on_a_gpu_that_was_killed_and_resumed_is_uninterrupted(tmp_path, monkeypatch, name, where):
    if where == "host":
        monkeypatch.setattr(tables, "choose_device", lambda device, size: torch.device("cpu"))
    extra = [*RUNS[name], "device=cuda", "compile=always", "compare=false", "log_every=40", "checkpoint_every=40"]
    train(tmp_path / "whole", *extra)
    with monkeypatch.context() as patched:
        patched.setattr("pbrl.training.loop.Training._evaluate", stop_at(120))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", *extra)
    train(tmp_path / "cut", *extra)
    assert_same(outcome(tmp_path / "whole")["policies"], outcome(tmp_path / "cut")["policies"])


def stop_at(step):
    from pbrl.training.loop import Training

    plain = Training._evaluate

    def evaluate(self, stage, bar):
        if self.policy_step >= step:
            raise KeyboardInterrupt
        return plain(self, stage, bar)

    return evaluate


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["cpl", "piql-in-rounds", "dtr", "three-seeds"])
def test_between_lines_of_the_log_the_host_does_not_wait_for_the_gpu(tmp_path, monkeypatch, name):
    """PyTorch itself raises where the host would wait."""
    run = Updates.run

    def watched(self, most):
        torch.cuda.set_sync_debug_mode("error" if getattr(self, "graphs", None) else "default")
        try:
            return run(self, most)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Updates, "run", watched)
    flags = ["device=cuda", "compile=always", "compare=false", "log_every=40", "checkpoint_every=40"]
    train(tmp_path, *RUNS[name], *flags)
