"""A mock of an arm behind a rosbridge server, to try drivers and policies without ROS.

Its behaviour is pinned by traffic recorded from real bridges (tests/real/rosbridge): ROS 1 noetic, rosbridge 0.11.17,
and ROS 2 humble, rosbridge 2.0.0. What was never recorded follows their source; docstrings name the exceptions.
"""

import sim  # noqa: F401  chooses how MuJoCo renders, before anything here imports it
