#!/usr/bin/env bash
# A geom with a material is drawn in the material's color only while its own `rgba` is exactly (0.5, 0.5, 0.5, 1), the
# default. A good guess is that `model.geom_rgba[i, 3] = 0.3` makes it see-through; it also turns it grey, as the color
# of the geom's own rgba then replaces the material's. To fade such a geom, the material's color must be copied first.
#
# mujoco 3.3.7, EGL. Seen, mean color of a box of a red material: (255, 107, 107) untouched, (206, 206, 206) with the
# default rgba but alpha 0.99, and (253, 107, 107) with the material's color copied into rgba at alpha 0.99.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check mujoco==3.3.7 numpy==2.3.5
cat > "$place/show.py" <<'PY'
import mujoco

XML = """<mujoco><asset><material name="red" rgba="0.9 0.1 0.1 1"/></asset><worldbody>
<light pos="0 0 3" dir="0 0 -1" diffuse="0.5 0.5 0.5"/><camera name="above" pos="0 0 2"/><geom type="box" size="1 1 0.1" material="red"/>
</worldbody></mujoco>"""


def color(rgba):
    model = mujoco.MjModel.from_xml_string(XML)
    if rgba is not None:
        model.geom_rgba[0] = rgba
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 32, 32) as renderer:
        renderer.update_scene(data, "above")
        return renderer.render()[12:20, 12:20].reshape(-1, 3).mean(0).round().astype(int).tolist()


print("version  ", mujoco.__version__)
untouched, faded, copied = color(None), color([0.5, 0.5, 0.5, 0.99]), color([0.9, 0.1, 0.1, 0.99])
print("untouched", untouched, "alpha 0.99", faded, "color copied, alpha 0.99", copied)
assert untouched[0] > 2 * untouched[1], "the material's red"
assert abs(faded[0] - faded[1]) <= 2, "grey: the geom's own rgba replaced the material's color"
assert copied[0] > 2 * copied[1], "red again"
PY
MUJOCO_GL=${MUJOCO_GL:-egl} "$place/venv/bin/python" "$place/show.py"
