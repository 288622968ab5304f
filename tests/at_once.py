"""Runs of tests in several processes at once (pytest-xdist), where what they share is not made by each.

Modules are what is run at a time: what a module's tests share is made once. Those that share more are one group.
"""

import os
from collections.abc import Callable, Iterable
from typing import Final

import pytest

IS_ONE_OF_SEVERAL: Final = "PYTEST_XDIST_WORKER" in os.environ
"""Whether another process has begun this one, and holds what all of them need."""


def group(items: Iterable[pytest.Item], name_of: Callable[[pytest.Item], str]) -> None:
    """Has `--dist=loadgroup` run items of one name in one process, in their order: for a hook that is tried first, as
    xdist reads the groups in the same one."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(name_of(item)))
