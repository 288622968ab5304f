"""What a run says of itself: the clock of a start, the admin port that shows it, the metrics."""
