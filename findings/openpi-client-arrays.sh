#!/usr/bin/env bash
# openpi-client 0.1.2: its arrays are not those of msgpack-numpy 0.4.8, which it is made after; neither says so.
#
# A good guess: what one packs, the other unpacks. Seen: the names in the map differ (__ndarray__, data, dtype, shape
# against nd, type, kind, shape, data), and a plain dict comes back in the array's place, without an error. Besides,
# openpi-client asks for NumPy below 2, so beside a newer one a robot can speak its protocol, but not install it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openpi-client==0.1.2 msgpack-numpy==0.4.8 msgpack==1.1.2 numpy==1.26.4
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import requires

import msgpack
import msgpack_numpy as other
import numpy as np
from openpi_client import msgpack_numpy as openpi

array = np.arange(3, dtype=np.float32)
ours, theirs = openpi.packb({"actions": array}), other.packb({"actions": array})
assert np.array_equal(openpi.unpackb(ours)["actions"], array)
assert np.array_equal(other.unpackb(theirs)["actions"], array)
crossed = {"openpi read by msgpack-numpy": other.unpackb(ours), "msgpack-numpy read by openpi": openpi.unpackb(theirs)}
for what, found in crossed.items():
    print(f"{what}: a {type(found['actions']).__name__} with the keys {sorted(map(str, found['actions']))}")
    assert isinstance(found["actions"], dict), what
assert set(msgpack.unpackb(ours)["actions"]) == {b"__ndarray__", b"data", b"dtype", b"shape"}
assert any(need.replace(" ", "").startswith("numpy<2") for need in requires("openpi-client"))
print("openpi-client needs:", [need for need in requires("openpi-client") if need.startswith("numpy")])
PYTHON
