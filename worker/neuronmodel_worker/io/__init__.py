"""Files beyond what Python's own functions do: direct and durable writes, what a disk can do, temporary folders."""
