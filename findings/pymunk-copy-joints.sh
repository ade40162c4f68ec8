#!/usr/bin/env bash
# pymunk 7.3.1: a copied (or pickled) space does not go on as the original: with joints it is soon far away.
#
# A good guess: since pymunk pickles a space with its cached contacts, a copy goes on as the original does, to the bit.
# Seen: with contacts alone it is off by rounding. With joints it goes another way, since joints keep impulses that are
# no part of a pickle and cannot be set. And a shape does not keep its body alive: once the last name of a body is gone,
# `shape.body` is None, but only from the next garbage collection on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pymunk==7.3.1
cat > "$folder/show.py" <<'PYTHON'
import gc

import pymunk


def add_box(space: pymunk.Space, size: tuple, mass: float, place: tuple) -> pymunk.Body:
    body = pymunk.Body(mass, pymunk.moment_for_box(mass, size))
    body.position = place
    space.add(body, pymunk.Poly.create_box(body, size))
    return body


def push(joints: bool) -> pymunk.Space:
    """A heavy box that pushes two light ones; with joints, these are slowed as by friction with the ground."""
    space, ground = pymunk.Space(), pymunk.Body(body_type=pymunk.Body.STATIC)
    space.add(ground)
    add_box(space, (0.5, 0.1), 1.0, (0.0, -0.3)).velocity = (0.0, 0.8)
    for i in range(2):
        piece = add_box(space, (0.2, 0.2), 0.01, (0.06 * i + 0.03, 0.25 * i))
        if joints:
            joint = pymunk.PivotJoint(ground, piece, (0, 0), (0, 0))
            joint.max_bias, joint.max_force = 0.0, 1.5
            space.add(joint)
    return space


def state(space: pymunk.Space) -> list[tuple]:
    return [(*body.position, body.angle, *body.velocity, body.angular_velocity) for body in space.bodies]


for joints in (False, True):
    space = push(joints)
    for _ in range(40):
        space.step(1 / 80)
    copied, away = space.copy(), 0.0
    for _ in range(20):
        space.step(1 / 80)
        copied.step(1 / 80)
        away = max(abs(a - b) for one, own in zip(state(space), state(copied)) for a, b in zip(one, own)) or away
    print(f"{'with' if joints else 'without'} joints: the copy is {away:.2g} off")
    assert away > 0.01 if joints else 0 < away < 1e-12, "a copy goes on in another way now"


def make_shape() -> pymunk.Shape:
    return pymunk.Circle(pymunk.Body(1, 1), 1)


shape = make_shape()
gc.collect()
print(f"the body of a shape that alone was kept: {shape.body}")
assert shape.body is None, "a shape keeps its body alive now"
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
