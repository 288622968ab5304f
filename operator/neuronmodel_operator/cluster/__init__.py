"""All I/O with the API server and with workers: observing, fetching reports, writing."""
