"""What a worker's pod can do, seen from inside, and what it leaves of the source as it was."""

import pytest

from neuronmodel_api import names

from .capital import Capital, file_facts


def inside(capital: Capital, command: str) -> str:
    pod = capital.kept.serving_pod()["metadata"]["name"]
    return capital.room.cluster.execute(capital.room.namespace, pod, command).strip()


def test_the_worker_is_nobody(capital: Capital) -> None:
    assert inside(capital, "id -u") == str(names.USER_ID)


@pytest.mark.parametrize(
    ("line", "value"),
    [("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")],
)
def test_the_worker_has_no_rights_to_lose(capital: Capital, line: str, value: str) -> None:
    assert inside(capital, f"grep ^{line}: /proc/1/status").split() == [f"{line}:", value]


@pytest.mark.parametrize("folder", ["/", "/usr", names.SOURCE_MOUNT, names.ARTIFACTS_MOUNT])
def test_the_worker_cannot_write(capital: Capital, folder: str) -> None:
    assert "Read-only file system" in inside(capital, f"touch {folder}/written")


def test_the_worker_has_a_place_for_temporary_files(capital: Capital) -> None:
    assert inside(capital, f"touch {names.SCRATCH_MOUNT}/written && rm {names.SCRATCH_MOUNT}/written") == ""


def test_the_worker_has_no_token(capital: Capital) -> None:
    assert "No such file" in inside(capital, "ls /var/run/secrets/kubernetes.io")


def test_the_source_has_the_owners_and_modes_it_had(capital: Capital) -> None:
    assert file_facts(capital.room) == capital.source_before
