"""One module per condition: what it wants and what it waits for. None relies on another having run before."""
