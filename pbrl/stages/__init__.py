"""A task in stages, with what is wanted of the motion in each, written down by a person or a model as a small yaml."""
