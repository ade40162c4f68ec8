"""`python -m pbrl.label env=… data=…`: a page in the browser where people answer questions about a data set."""
