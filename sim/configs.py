"""Makes every task of every simulator a config: `env=metaworld/button-press`, `env=dm_control/walker-walk`, …

The names come from the simulators themselves; the values stand once, in `configs/env/<simulator>/base.yaml`.
"""

from hydra.core.config_store import ConfigStore

from sim.tasks import tasks

SIMULATORS = ("metaworld", "dm_control", "gym", "tabletop", "franka", "multitask", "magical")


def register() -> None:
    """Adds the tasks to Hydra's configs.

    Hydra 1.3 copies its store, with all of them, whenever it composes a config: a third of the time, and for `--help`
    once for each group. It changes nothing in the copy, and copies what it loads, so that the store may stand for it.
    """
    store = ConfigStore.instance()
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    for simulator in SIMULATORS:
        for task in tasks(simulator):
            node = {
                "defaults": [f"/env/{simulator}/base@_here_", "_self_"],
                "task": task,
                "name": f"{simulator}/{task}",
            }
            store.store(group=f"env/{simulator}", name=task, node=node, provider="sim")
