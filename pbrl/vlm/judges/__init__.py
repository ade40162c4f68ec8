"""Ways of judging, one a file: `vlm.judge=<name>` is `make` in the file of that name; its prompts are in prompts/."""
