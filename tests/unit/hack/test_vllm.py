"""The environments of real vLLMs: what their locks hold, and under which name vLLM finds itself."""

import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from hack.vllm.environments import PYTHON_VERSION, environment_of, name_it_vllm
from hack.vllm.versions import VERSIONS, Version


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


def test_a_lock_has_what_its_version_names_with_hashes_and_no_index(version: Version) -> None:
    lines = version.lock.read_text().splitlines()
    named = [line.removesuffix(" \\") for line in lines if line and not line.startswith(" ")]
    assert {*version.requirements, *version.overrides} <= set(named)
    assert [line for line in named if not re.fullmatch(r"[a-z0-9_.-]+==[A-Za-z0-9_.+-]+( ; .+)?", line)] == []
    assert all(line.strip().startswith("--hash=sha256:") for line in lines if line.startswith(" "))


def test_what_the_worker_needs_beside_vllm_is_in_it(version: Version) -> None:
    names = {line.partition("==")[0] for line in version.lock.read_text().splitlines() if "==" in line}
    assert {"aiohttp", "jinja2", "ml-dtypes", "obstore", "packaging", "prometheus-client", "tqdm", "xxhash"} <= names


def test_vllm_finds_the_name_by_which_it_takes_processors(version: Version, tmp_path: Path) -> None:
    packages = tmp_path / "lib" / f"python{PYTHON_VERSION}" / "site-packages"
    packages.mkdir(parents=True)
    name_it_vllm(tmp_path, version)
    (found,) = Distribution.discover(path=[str(packages)])
    assert (found.metadata["Name"], found.version) == ("vllm", f"{version.name}+cpu")


def test_environments_are_where_the_user_wants_them(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURONMODEL_VLLM_DIR", str(tmp_path))
    assert environment_of(version) == tmp_path / version.name
