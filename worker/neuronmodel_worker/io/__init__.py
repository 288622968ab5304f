"""File I/O that Python's own functions lack: direct and durable writes, disk rates, temporary folders."""
