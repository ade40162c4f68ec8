"""Where answers come from and where they are kept."""
