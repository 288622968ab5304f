"""What a worker reports of its own run: the clock of its phases, the admin port and the metrics."""
