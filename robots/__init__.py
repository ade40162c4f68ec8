"""What robots are, as data: their geometry, limits, rates and home pose, and what follows from those by kinematics."""

import sim  # noqa: F401  # settles how MuJoCo renders, whoever loads it first
