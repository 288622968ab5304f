"""What is seen of the operator in Prometheus: the dashboard, and a Prometheus of this machine's own to try it with."""
