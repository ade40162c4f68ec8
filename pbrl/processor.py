"""What this machine's processor is, and how much of it this process may use."""

import math
import os
import platform
from functools import cache
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@cache
def processor_name() -> str:
    """Its name, and what instructions PyTorch uses of it, for what keeps figures of it: "AMD EPYC, AVX512"."""
    import torch  # not for those who ask for cores alone

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not a Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = next(filter(None, names), "") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def available_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may run on, and that its container's quota of time lets it fill: at least 1."""
    cores = len(os.sched_getaffinity(0)) if "sched_getaffinity" in vars(os) else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Cores' worth of time that a container may use; infinite without a limit."""
    try:
        if (cgroup / "cpu.max").exists():  # cgroup 2
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else math.inf
    except (OSError, ValueError):
        return math.inf
