"""What ends a benchmark, as a sentence."""


class BenchFailed(Exception):
    """The message says what was wrong, where, and what to do."""
