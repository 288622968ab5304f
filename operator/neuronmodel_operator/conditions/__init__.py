"""One module a condition: what it wants, what it waits for. None relies on another having run."""
