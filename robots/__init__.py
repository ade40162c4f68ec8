"""Robot arms as data: joints, limits, gripper, rates and geometry in `robots/<name>/arm.yaml`, and their kinematics."""
