"""IQL in JAX, as its fastest implementations are written: many updates in one `lax.scan`, batches drawn inside.

A rival of `benchmarks.rivals`; needs `pip install -e ".[bench]"`.
"""

from collections.abc import Callable
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
import optax  # pyright: ignore[reportMissingImports]
from jax import lax  # pyright: ignore[reportMissingImports]

from pbrl.data.table import Table

BATCH, EXPECTILE, BETA, DISCOUNT, TAU, LR = 256, 0.7, 3.0, 0.99, 0.005, 3e-4


def iql(table: Table, updates: int) -> Callable[[], None]:
    """So many updates a call, of two critics, a value network and a policy of 2 × 256."""
    obs, action = (jnp.asarray(part.numpy()) for part in (table.obs, table.action))
    reward, done = (jnp.asarray(part.numpy()) for part in (table.labels["reward"], table.done))
    rows = jnp.asarray(table.rows.numpy(), jnp.int32)
    o, a = obs.shape[1], action.shape[1]
    random = np.random.default_rng(0)
    params = {
        "q": [mlp(random, o + a, 256, 256, 1) for _ in range(2)], "v": mlp(random, o, 256, 256, 1),
        "actor": [mlp(random, o, 256, 256, a), jnp.zeros(a)],
    }  # fmt: skip
    optim = optax.adam(LR)
    state = params, params["q"], optim.init(params), jax.random.key(0)

    def loss(params: Any, target: Any, batch: Any) -> jax.Array:
        obs, action, reward, next_obs, done = batch
        pair = jnp.concatenate([obs, action], 1)
        q_min = jnp.minimum(*(apply(net, pair)[:, 0] for net in target))
        target_value = reward + DISCOUNT * (1 - done) * lax.stop_gradient(apply(params["v"], next_obs)[:, 0])
        error = q_min - apply(params["v"], obs)[:, 0]
        v_loss = (jnp.where(error > 0, EXPECTILE, 1 - EXPECTILE) * error**2).mean()
        q_loss = sum(((apply(net, pair)[:, 0] - target_value) ** 2).mean() for net in params["q"])
        weight = jnp.minimum(jnp.exp(BETA * lax.stop_gradient(error)), 100.0)
        net, log_std = params["actor"]
        gap = (action - jnp.tanh(apply(net, obs))) * jnp.exp(-log_std)
        log_prob = -(0.5 * gap**2 + log_std).sum(-1)
        return v_loss + q_loss - (weight * log_prob).mean()

    def update(state: Any, _: None) -> tuple[Any, jax.Array]:
        params, target, moments, key = state
        key, draw = jax.random.split(key)
        r = rows[jax.random.randint(draw, (BATCH,), 0, len(rows))]
        value, grads = jax.value_and_grad(loss)(params, target, (obs[r], action[r], reward[r], obs[r + 1], done[r]))
        moves, moments = optim.update(grads, moments)
        params: Any = optax.apply_updates(params, moves)
        target = optax.incremental_update(params["q"], target, TAU)
        return (params, target, moments, key), value

    scan = jax.jit(lambda state: lax.scan(update, state, None, updates))

    def run() -> None:
        nonlocal state
        state, losses = scan(state)
        losses.block_until_ready()

    return run


def mlp(random: np.random.Generator, *sizes: int) -> list[tuple[jax.Array, jax.Array]]:
    return [
        (jnp.asarray(random.standard_normal((i, o), np.float32) / np.sqrt(i)), jnp.zeros(o))
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]


def apply(layers: Any, x: jax.Array) -> jax.Array:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias
