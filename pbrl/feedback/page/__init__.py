"""The labelling page: `server.py` answers the browser, `page/` is what the browser runs."""
