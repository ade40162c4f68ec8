"""In order; see `schema.HEAD`."""
