"""Makes every task of every simulator a config: `env=metaworld/button-press`, `env=dm_control/walker-walk`, …

The names come from the simulators themselves; the values stand once, in `configs/env/<simulator>/base.yaml`.
"""

from hydra.core.config_store import ConfigStore

from sim.tasks import tasks

SIMULATORS = ("metaworld", "dm_control", "gym", "tabletop", "franka", "multitask", "magical")


def register() -> None:
    """Adds the tasks to Hydra's configs."""
    store = ConfigStore.instance()
    for simulator in SIMULATORS:
        for task in tasks(simulator):
            node = {
                "defaults": [f"/env/{simulator}/base@_here_", "_self_"],
                "task": task,
                "name": f"{simulator}/{task}",
            }
            store.store(group=f"env/{simulator}", name=task, node=node, provider="sim")
