"""Diffusion models of arrays [..., H, D]: H steps of a chunk of actions or of a plan, D numbers each."""
