"""Which OpenGL renders without a screen: EGL, else OSMesa, tried for real once in a process of its own.

MuJoCo reads `MUJOCO_GL` when it is imported and never again, so the choice is made before that and remembered in the
user's cache. A variable that the user has set wins.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("libegl1", "libgl1", "libosmesa6")
HINT = (
    "No headless OpenGL works here, so nothing can be rendered. Install one and try again: "
    "`apt-get install libegl1 libgl1` (EGL) or `apt-get install libosmesa6` (OSMesa). "
    "Training needs no pictures: `video=false`."
)
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='.3'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().any()
renderer.close()
"""


class RendererMissing(RuntimeError):
    """No OpenGL that can render without a screen; the message names the packages to install."""


def cache_dir() -> Path:
    """The user's cache folder for this project."""
    return Path(os.environ.get("PBRL_CACHE", Path.home() / ".cache" / "pbrl"))


def can_render(name: str) -> bool:
    """Whether MuJoCo renders a sphere through this backend, found out in a fresh process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env={**os.environ, "MUJOCO_GL": name}, capture_output=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def probe(candidates: tuple[str, ...] = ("egl", "osmesa")) -> str:
    """Returns the first backend that renders. Raises RendererMissing."""
    for name in candidates:
        if can_render(name):
            return name
    raise RendererMissing(HINT)


def choose() -> str | None:
    """Sets `MUJOCO_GL` if the user has not, from the cache or by probing; None when nothing renders."""
    if "MUJOCO_GL" in os.environ:
        return os.environ["MUJOCO_GL"]
    remembered = cache_dir() / "renderer.json"
    key = f"mujoco {version('mujoco')}"
    try:
        name = json.loads(remembered.read_text())[key]
    except (OSError, ValueError, KeyError):
        try:
            name = probe()
        except RendererMissing:  # raised again on rendering; simulation works without
            os.environ["MUJOCO_GL"] = "disabled"
            return None
        try:
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remembered.write_text(json.dumps({key: name}))
        except OSError:
            pass  # a cache that cannot be written costs one more probe next time
    os.environ["MUJOCO_GL"] = name
    return name


def forget() -> None:
    """Drops the remembered choice, so that the next start probes again."""
    (cache_dir() / "renderer.json").unlink(missing_ok=True)


def install() -> None:
    """Says which backend renders; where none does, installs Debian's packages if it may, else names them."""
    forget()
    for attempt in range(2):
        try:
            print(f"pictures are rendered with {probe()}")
            return
        except RendererMissing as error:
            if attempt or os.geteuid() != 0 or shutil.which("apt-get") is None:
                print(error)
                return
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", *PACKAGES]):
            print(" ".join(command))
            subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
