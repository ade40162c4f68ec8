"""The real arm: so far the filter that every command will pass through; the driver comes next."""
