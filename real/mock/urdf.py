"""The mock arm's description of itself, as a URDF of its joints' limits alone."""

from robots.arm import Arm


def urdf(arm: Arm) -> str:
    """The URDF of an arm: joints with their limits, in rad, rad/s and Nm."""
    limits = arm.limits
    rows = zip(arm.joints, limits.position_min, limits.position_max, limits.velocity, limits.torque, strict=True)
    joints = (
        f'<joint name="{name}" type="revolute">'
        f'<limit lower="{low}" upper="{high}" velocity="{speed}" effort="{effort}"/></joint>'
        for name, low, high, speed, effort in rows
    )
    return f'<robot name="{arm.name}">{"".join(joints)}</robot>'
