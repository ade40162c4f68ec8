#!/usr/bin/env bash
# pin 4.1.0 (Pinocchio's wheel, built by cmeel): in a folder that PYTHONPATH names it is not there, in a site folder it is.
#
# A good guess: what `pip install --target` puts into a folder, PYTHONPATH=folder imports; so robots' add-ons are shipped.
# Seen: the wheel's module lies in cmeel.prefix/lib/python3.*/site-packages, and only a .pth file points there, which Python
# reads in site folders alone. `import pinocchio` ends in ModuleNotFoundError, and after site.addsitedir it works. Beside
# it, PYTHONPATH=folder/cmeel.prefix/share imports a pinocchio that has no function at all, and says nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$folder/venv/bin/pip" install --quiet --target "$folder/robots" pin==4.1.0 2> "$folder/log" || { cat "$folder/log"; exit 1; }

PYTHONPATH="$folder/robots" "$python" - <<'PYTHON'
import importlib.util

print("by PYTHONPATH:", importlib.util.find_spec("pinocchio"))
assert importlib.util.find_spec("pinocchio") is None
PYTHON
PYTHONPATH="$folder/robots/cmeel.prefix/share" "$python" - <<'PYTHON'
import pinocchio

print("from share:", pinocchio.__file__, hasattr(pinocchio, "buildModelFromUrdf"))
assert pinocchio.__file__ is None and not hasattr(pinocchio, "buildModelFromUrdf")
PYTHON
"$python" - "$folder/robots" <<'PYTHON'
import site
import sys

site.addsitedir(sys.argv[1])
import pinocchio

print("as a site folder:", pinocchio.__version__, hasattr(pinocchio, "buildModelFromUrdf"))
assert hasattr(pinocchio, "buildModelFromUrdf")
PYTHON
