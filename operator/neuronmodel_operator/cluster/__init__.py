"""All I/O with the API server and with workers: what is read, what workers are asked, what is written."""
