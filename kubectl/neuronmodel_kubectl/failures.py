"""What `kubectl nm` can't do."""


class PluginError(Exception):
    """The message is one sentence for the user: what was wrong, and what to do."""

    exit_code = 1


class UsageError(PluginError):
    exit_code = 2
