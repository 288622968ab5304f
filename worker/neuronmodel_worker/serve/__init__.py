"""Everything a serving worker does: it loads what was prepared, then answers requests on the serving port."""
