"""The repository of a pod's configuration: its certificates are read when a request needs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuronmodel_api.sources import HubSource
from neuronmodel_worker.sources.hub.opening import open_configured
from neuronmodel_worker.sources.hub.repository import HubRepository
from neuronmodel_worker.sources.remote.refusals import CertificatesBroken, CertificateUntrusted
from tests.authority import Authority
from tests.standins.hub import Hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, wait_little, weights_of

COMMENT = "# Főtanúsítvány\n".encode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def hub(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    wait_little(monkeypatch)
    certificate, key = authority.issue("127.0.0.1")
    with Hub(certificate=certificate, key=key) as hub:
        hub.add_repository(REPOSITORY, small_source(tmp_path / "model"))
        yield hub


def opened(hub: Hub, ca_file: Path, kept: Path, commit: str | None = None) -> HubRepository:
    source = HubSource(repository=REPOSITORY, endpoint=hub.endpoint, ca_file=str(ca_file), commit=commit)
    return open_configured(source, kept)


def test_certificates_with_words_in_any_encoding_are_trusted_by_both_clients(
    hub: Hub, authority: Authority, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(COMMENT + authority.certificate.read_bytes() + COMMENT)
    repository = opened(hub, ca_file, tmp_path / "kept")
    file = repository.files[weights_of(repository)[0]]
    assert repository.read_range(file, 0, 8).nbytes == 8


def test_a_missing_file_adds_no_certificates(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CertificateUntrusted):
        opened(hub, tmp_path / "missing.pem", tmp_path / "kept")


@pytest.mark.parametrize("content", ["", "none", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_certificates_is_named(hub: Hub, tmp_path: Path, content: str) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text(content)
    with pytest.raises(CertificatesBroken, match="caBundle cannot be read: what is there is no certificate"):
        opened(hub, broken, tmp_path / "kept")


def test_a_folder_in_the_file_s_place_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CertificatesBroken, match="cannot be read: Is a directory"):
        opened(hub, tmp_path, tmp_path / "kept")


def test_a_commit_that_is_kept_is_opened_without_certificates(hub: Hub, authority: Authority, tmp_path: Path) -> None:
    first = opened(hub, authority.certificate, tmp_path / "kept")
    first.folder()
    broken = tmp_path / "broken.pem"
    broken.write_text("none")
    again = opened(hub, broken, tmp_path / "kept", first.commit)
    assert (again.folder() / "config.json").exists()
    file = again.files[weights_of(again)[0]]
    with pytest.raises(CertificatesBroken, match="no certificate in PEM"):
        again.read_range(file, 0, 8)
