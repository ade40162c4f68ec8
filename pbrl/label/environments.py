"""Environments of other packages: each names a function, in the entry-point group `pbrl.environments`, that adds its
configs to Hydra's.

    [options.entry_points]
    pbrl.environments =
        my_package = my_package.configs:register
"""

from importlib.metadata import entry_points

GROUP = "pbrl.environments"


def register_environments() -> None:
    """Makes the environments of all installed packages known to Hydra."""
    for entry in entry_points(group=GROUP):
        entry.load()()
