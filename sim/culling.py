"""Meshes that a camera does not see are not drawn: MuJoCo hands all of them to OpenGL, wherever they are.

In a closeup most of an arm is out of the picture, and its tens of thousands of triangles are most of a frame's time
where a processor renders. No pixel changes, as long as there are neither shadows nor reflections.
"""

import mujoco
import numpy as np

MESH, GEOM = int(mujoco.mjtGeom.mjGEOM_MESH), int(mujoco.mjtObj.mjOBJ_GEOM)
MARGIN = 1e-3  # m; OpenGL computes in float32
FACES = 5000  # of all meshes; fewer are drawn sooner than sorted out


def drop_unseen_meshes(model: mujoco.MjModel, data: mujoco.MjData, scene: mujoco.MjvScene, aspect: float) -> None:
    """Drops from a scene the meshes whose bounding box lies beside what is seen; `aspect` is width by height."""
    if model.mesh_facenum.sum() < FACES:
        return
    meshes = [geom for geom in scene.geoms[: scene.ngeom] if geom.type == MESH and geom.objtype == GEOM]
    left, right = scene.camera  # two eyes, between which the picture is taken
    if not meshes or left.orthographic or scene.enabletransform:
        return
    ids = [geom.objid for geom in meshes]
    axes = data.geom_xmat[ids].reshape(-1, 3, 3)  # [G, 3, 3], of each box in columns
    centers = data.geom_xpos[ids] + np.einsum("gij,gj->gi", axes, model.geom_aabb[ids, :3])
    normals, near = frustum(left, right, aspect)
    distance = (centers - (left.pos + right.pos) / 2) @ normals.T - near  # [G, 5]
    reach = np.einsum("gpj,gj->gp", np.abs(np.einsum("pi,gij->gpj", normals, axes)), model.geom_aabb[ids, 3:])
    for geom, is_outside in zip(meshes, (distance + reach < -MARGIN).any(1), strict=True):
        if is_outside:
            geom.dataid = -1  # MuJoCo draws none of its meshes then


def frustum(left: mujoco.MjvGLCamera, right: mujoco.MjvGLCamera, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Inward normals [5, 3] of the planes around what is seen, and how far [5] from the camera they begin, in m."""
    forward, up = (left.forward + right.forward).astype(float), (left.up + right.up).astype(float)
    forward, up = forward / np.linalg.norm(forward), up / np.linalg.norm(up)
    side, near = np.cross(forward, up), left.frustum_near
    middle = (left.frustum_center + right.frustum_center) / 2
    half = left.frustum_width or aspect * (left.frustum_top - left.frustum_bottom) / 2
    planes = [
        near * side - (middle - half) * forward,
        (middle + half) * forward - near * side,
        near * up - left.frustum_bottom * forward,
        left.frustum_top * forward - near * up,
        near * forward,
    ]
    normals = np.stack(planes)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return normals, np.array([0, 0, 0, 0, near])
