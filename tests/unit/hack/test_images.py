"""Images: their tags follow what they are made of, and a build borrows what it needs without keeping it."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from hack.cluster import images, pause
from hack.cluster.layout import PROJECT
from hack.cluster.lending import apt_configuration, pip_configuration


@pytest.fixture
def dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(images, "PROJECT", tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/app.py").write_text("print(1)\n")
    (tmp_path / "notes.md").write_text("about\n")
    path = tmp_path / "Dockerfile"
    path.write_text("FROM scratch AS built\nCOPY code /code\nFROM scratch\nCOPY --from=built /code /code\n")
    return path


def test_a_change_of_copied_code_changes_the_tag(dockerfile: Path, tmp_path: Path) -> None:
    before = images.tag(dockerfile)
    (tmp_path / "code/app.py").write_text("print(2)\n")
    assert images.tag(dockerfile) != before


def test_a_change_of_the_dockerfile_changes_the_tag(dockerfile: Path) -> None:
    before = images.tag(dockerfile)
    dockerfile.write_text(dockerfile.read_text() + "USER 65532\n")
    assert images.tag(dockerfile) != before


def test_what_is_not_copied_does_not_change_the_tag(dockerfile: Path, tmp_path: Path) -> None:
    before = images.tag(dockerfile)
    (tmp_path / "notes.md").write_text("more\n")
    (tmp_path / "code/__pycache__").mkdir()
    (tmp_path / "code/__pycache__/app.pyc").write_bytes(b"\0")
    assert images.tag(dockerfile) == before


@pytest.mark.parametrize("name", sorted(images.DOCKERFILES))
def test_every_file_that_a_dockerfile_copies_exists(name: str) -> None:
    dockerfile = images.DOCKERFILES[name]
    lines = [line.split() for line in dockerfile.read_text().splitlines()]
    copied = [word for words in lines if words[:1] == ["COPY"] and "--from" not in words[1] for word in words[1:-1]]
    assert copied
    assert [source for source in copied if not (dockerfile.parents[1] / source).exists()] == []


@pytest.mark.parametrize("dockerfile", [images.DOCKERFILES["operator"], images.DOCKERFILES["worker"], images.STAND_INS])
def test_an_image_made_of_debian_installs_the_certificates_of_authorities(dockerfile: Path) -> None:
    first_stage = dockerfile.read_text().split("\nFROM ")[1]
    assert first_stage.startswith("debian:")
    assert "ca-certificates" in first_stage.partition("apt-get install")[2].partition("\n")[0]


def test_pip_lends_how_it_reaches_its_index_and_nothing_else() -> None:
    listed = ":env:.cert='/etc/ssl/ours.crt'\n:env:.find-links='/opt/wheels'\nglobal.index-url='https://mirror.test/simple'\n"
    assert pip_configuration(listed) == "[global]\ncert = /etc/ssl/ours.crt\nindex-url = https://mirror.test/simple\n"


def test_apt_lends_its_proxy_and_checks() -> None:
    dumped = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy.test:3128";\nAcquire::Check-Date "false";\n'
    )
    assert apt_configuration(dumped) == 'Acquire::http::Proxy "http://proxy.test:3128";\nAcquire::Check-Date "false";\n'


def test_the_pause_image_is_an_archive_whose_digest_is_right(tmp_path: Path) -> None:
    binary = tmp_path / "pause"
    binary.write_bytes(b"program")
    pause.write_archive(binary, tmp_path / "pause.tar")
    with tarfile.open(tmp_path / "pause.tar") as archive:
        files = {name: content.read() for name in archive.getnames() if (content := archive.extractfile(name))}
    config = json.loads(files["config.json"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files['layer.tar']).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(files["layer.tar"])) as layer:
        assert layer.getmember("pause").mode == 0o755


def test_an_image_is_rebuilt_when_its_base_changes(dockerfile: Path, tmp_path: Path) -> None:
    base = tmp_path / "Dockerfile.base"
    base.write_text("FROM scratch\n")
    before = images.tag(dockerfile, base)
    base.write_text("FROM scratch\nENV ONE=1\n")
    assert images.tag(dockerfile, base) != before


def test_no_image_takes_the_neuron_sdk_or_its_frameworks_from_a_package_index() -> None:
    theirs = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "neuronx", "libneuron", "vllm")
    lock = (PROJECT / "hack/locks/worker-neuron.txt").read_text().splitlines()
    named = [line for line in lock if "==" in line]
    assert named
    assert [line for line in named if line.startswith(theirs)] == []
    locks = "".join(path.read_text() for path in (PROJECT / "hack/locks").iterdir())
    assert "neuronx" not in locks
    assert "libneuron" not in locks
