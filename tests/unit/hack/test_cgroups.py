import errno
import os
from pathlib import Path

import pytest

from hack.cluster import cgroups
from hack.cluster.layout import NODES

NODE = NODES[0]


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's own branch, of the only hierarchy."""
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])
    branch = tmp_path / NODE.cgroup.lstrip("/")
    (branch / "kubepods" / "pod-1" / "container").mkdir(parents=True)
    (branch / "kubepods" / "pod-2").mkdir()
    return branch


def test_what_pods_left_is_removed(branch: Path) -> None:
    assert cgroups.empty(NODE)
    assert list(branch.iterdir()) == []
    assert cgroups.empty(NODE)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_a_group_whose_process_has_not_ended_is_not_empty_yet(
    branch: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patched:

        def refuse(group: object) -> None:
            raise OSError(number, os.strerror(number))

        patched.setattr(Path, "rmdir", refuse)
        if number == errno.EBUSY:
            assert not cgroups.empty(NODE)
        else:
            with pytest.raises(PermissionError):
                cgroups.empty(NODE)
    assert branch.exists()
    assert cgroups.empty(NODE)
