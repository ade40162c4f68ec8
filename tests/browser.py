"""The browser that the labelling page is tried in. `python -m tests.browser` installs Debian's where it may."""

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


CHROMIUM = find()


def main() -> None:
    if find() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
            print(" ".join(command))
            subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    print(f"pages are tried in {find()}" if find() else "no browser: `apt-get install chromium`; its tests are skipped")


if __name__ == "__main__":
    main()
