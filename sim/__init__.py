"""Simulated environments. Importing this package settles how MuJoCo renders, which must happen before MuJoCo loads."""

import warnings

from sim.backend import choose

choose()
warnings.filterwarnings(
    "ignore", message=r"Constant\(s\) may be too high", module="metaworld"
)  # experts clip on purpose
