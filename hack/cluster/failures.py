"""What can go wrong, as sentences for the person at the terminal."""


class ClusterError(Exception):
    """A step failed; the message says what, where to look and what to do. Exit code 1."""

    exit_code = 1


class CannotRunHereError(ClusterError):
    """This machine cannot run a cluster, whatever is tried again. Exit code 3."""

    exit_code = 3
