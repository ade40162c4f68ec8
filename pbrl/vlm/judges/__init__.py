"""Ways of judging, one file each; see pbrl/vlm/judging.py."""
