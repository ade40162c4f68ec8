"""Pictures of a simulator state, the same every time: from a scratch copy, so that looking changes nothing.

Kinematics are computed anew from the state before each frame. What a simulator's own `render` shows can be one substep
old; this is the canonical picture, and a stored state gives it back to the pixel (same MuJoCo version, same backend).
"""

import atexit
import os
from typing import NamedTuple

import mujoco
import numpy as np

from sim import backend
from sim.culling import drop_unseen_meshes
from sim.view_change import UNCHANGED, ViewChange


class Viewpoint(NamedTuple):
    """A camera at a fixed place in the world, which the model need not hold; it stands upright, 45 degrees wide."""

    lookat: tuple[float, float, float]  # m
    distance: float  # m, from there
    azimuth: float  # degrees; 90 looks along y
    elevation: float  # degrees; -90 looks down

    def to_mujoco(self) -> mujoco.MjvCamera:
        """MuJoCo's free camera there."""
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = self.lookat
        camera.distance, camera.azimuth, camera.elevation = self.distance, self.azimuth, self.elevation
        return camera


class Camera:
    """Renders states of one model; rebuilds its renderer when model, size, preset or terrain change. One per thread."""

    def __init__(self) -> None:
        self.key: tuple | None = None
        self.renderer: mujoco.Renderer | None = None
        self.scratch: mujoco.MjData | None = None

    def frame(
        self,
        model: mujoco.MjModel,
        state: np.ndarray,
        spec: int,
        width: int,
        height: int,
        camera: str | Viewpoint | None,
        fast: bool,
        change: ViewChange = UNCHANGED,
    ) -> np.ndarray:
        """The frame [H, W, 3] uint8. `fast` drops shadows, multisampling and reflections: about ten times the speed.

        Raises RendererMissing when no backend works, ValueError for an unknown camera.
        """
        key = (id(model), width, height, fast, model.hfield_data.tobytes())  # OpenGL is given a terrain once
        if self.key != key:
            self.close()
            self.renderer, self.scratch = make_renderer(model, width, height, fast), mujoco.MjData(model)
            self.key = key
            atexit.register(self.close)  # before MuJoCo takes OpenGL down, which it registered when that was made
        assert self.renderer is not None and self.scratch is not None
        if isinstance(camera, str) and mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera) < 0:
            names = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_CAMERA, i) for i in range(model.ncam)]
            raise ValueError(f"no camera {camera!r} here; there are {', '.join(map(str, names))}")
        mujoco.mj_setState(model, self.scratch, state, spec)
        mujoco.mj_forward(model, self.scratch)
        seen_by = camera.to_mujoco() if isinstance(camera, Viewpoint) else -1 if camera is None else camera
        self.renderer.update_scene(self.scratch, seen_by)
        if not change.is_none:
            change.apply(model, self.renderer.scene)
        if fast:
            self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            drop_unseen_meshes(model, self.scratch, self.renderer.scene, width / height)
        return self.renderer.render()

    def close(self) -> None:
        """Frees the renderer."""
        if self.renderer is not None:
            self.renderer.close()
        self.renderer = self.scratch = self.key = None


def make_renderer(model: mujoco.MjModel, width: int, height: int, fast: bool) -> mujoco.Renderer:
    """A MuJoCo renderer with the preset's quality, which OpenGL fixes when its buffers are made."""
    if os.environ.get("MUJOCO_GL") in ("disabled", "disable", "off", "false", "0"):
        raise backend.RendererMissing(backend.HINT)
    quality, buffer = model.vis.quality, model.vis.global_
    before = quality.shadowsize, quality.offsamples
    buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)
    if fast:
        quality.shadowsize, quality.offsamples = 0, 0
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:
        backend.forget()
        raise backend.RendererMissing(backend.HINT) from error
    finally:
        quality.shadowsize, quality.offsamples = before
