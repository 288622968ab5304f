"""versitygw: an S3 server that others wrote, as a process with an authority, users and buckets of a test's own."""

import hashlib
import hmac
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.store import S3Store

from hack.cluster.binaries import VERSITYGW, ensure_program
from hack.cluster.failures import ClusterError
from tests.authority import Authority
from tests.ports import free_port
from tests.waiting import until

HOST: Final = "127.0.0.1"
REGION: Final = "eu-central-1"
PART_BYTES: Final = 5 << 20
"""Of uploads in parts: S3 takes no smaller ones but the last."""
VERSIONED: Final = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


@dataclass(frozen=True)
class Key:
    id: str
    secret: str


ROOT: Final = Key("ROOTEXAMPLE", "secret-of-root")


class Versitygw:
    """It serves `endpoint` while it is entered. A bucket is a folder below `buckets`."""

    def __init__(self, folder: Path) -> None:
        self._program = _program()
        for name in ("authority", "users", "versions", "buckets"):
            (folder / name).mkdir(parents=True)
        authority = Authority(folder / "authority")
        self._certificate, self._key = authority.issue(HOST)
        self._folder = folder
        self.authority = authority.certificate
        self.buckets = folder / "buckets"
        self.endpoint = f"https://{HOST}:{free_port()}"

    def __enter__(self) -> "Versitygw":
        """Starts it with absolute paths, as it changes its directory."""
        command: tuple[str | Path, ...] = (
            *(self._program, "--port", self._address, "--region", REGION, "--keep-alive", "--health", "/health"),
            *("--cert", self._certificate, "--key", self._key, "--iam-dir", self._folder / "users"),
            *("posix", "--versioning-dir", self._folder / "versions", self.buckets),
        )
        environment = {"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": ROOT.id, "ROOT_SECRET_KEY": ROOT.secret}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            until(self._answers, "versitygw to answer")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def add_user(self, name: str) -> Key:
        """Adds a user who may do what the policies of buckets allow, and nothing else."""
        key = Key(name, f"secret-of-{name}")
        self._administer("create-user", "--access", key.id, "--secret", key.secret, "--role", "user")
        return key

    def add_bucket(self, name: str, *, versioned: bool = False) -> None:
        self._administer("create-bucket", "--bucket", name, "--owner", ROOT.id)
        if versioned:
            self._configure(name, "versioning", VERSIONED)

    def allow(self, key: Key, bucket: str, actions: Collection[str], prefix: str) -> None:
        """Allows it by a policy, which replaces the bucket's."""
        arn = f"arn:aws:s3:::{bucket}"
        statement = {"Effect": "Allow", "Principal": {"AWS": [key.id]}}
        statements: list[dict[str, Any]] = [
            {**statement, "Action": action, "Resource": arn if action == "s3:ListBucket" else f"{arn}/{prefix}*"}
            for action in actions
        ]
        self._configure(bucket, "policy", json.dumps({"Version": "2012-10-17", "Statement": statements}))

    def put(self, bucket: str, key: str, content: bytes, *, in_parts: bool = False) -> None:
        obstore.put(self._store(bucket), key, content, use_multipart=in_parts, chunk_size=PART_BYTES)

    def put_folder(self, bucket: str, folder: Path, prefix: str, in_parts: str = "") -> None:
        """The file named `in_parts` is uploaded in parts, the others whole."""
        for file in sorted(folder.iterdir()):
            self.put(bucket, prefix + file.name, file.read_bytes(), in_parts=file.name == in_parts)

    def lay_folder(self, bucket: str, folder: Path, prefix: str) -> None:
        """Lays files into the bucket's folder: the server has no ETag of them."""
        shutil.copytree(folder, self.buckets / bucket / prefix)

    def delete(self, bucket: str, key: str) -> None:
        obstore.delete(self._store(bucket), key)

    @property
    def _address(self) -> str:
        return urlsplit(self.endpoint).netloc

    def _store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=ROOT.id,
            secret_access_key=ROOT.secret,
            client_options={"root_certificate": self.authority.read_text()},
        )

    def _administer(self, *arguments: str) -> None:
        """Asks without a check of the certificate, as the program cannot be told whom to trust."""
        asked = ("admin", "--access", ROOT.id, "--secret", ROOT.secret, "--region", REGION, "--allow-insecure")
        subprocess.run(
            (self._program, *asked, "--endpoint-url", self.endpoint, *arguments), check=True, capture_output=True
        )

    def _configure(self, bucket: str, what: str, body: str) -> None:
        """Sets what obstore has no call for."""
        status, answer = self._requested("PUT", f"/{bucket}", what, body.encode())
        assert status in (200, 204), answer

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"versitygw ended: {(self._folder / 'log').read_text()}")
        try:
            return self._asked("GET", "/health", {}, b"")[0] == 200
        except OSError:
            return False

    def _requested(self, method: str, path: str, parameter: str, body: bytes) -> tuple[int, bytes]:
        """Asks with a signature of version 4 and a parameter that has no value."""
        moment, digest = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), hashlib.sha256(body).hexdigest()
        headers = {"host": self._address, "x-amz-content-sha256": digest, "x-amz-date": moment}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = f"{method}\n{path}\n{parameter}=\n{lines}\n{names}\n{digest}"
        scope = f"{moment[:8]}/{REGION}/s3/aws4_request"
        signing = f"AWS4{ROOT.secret}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(signing, text.encode(), "sha256").hex()
        credential = f"Credential={ROOT.id}/{scope}, SignedHeaders={names}, Signature={signature}"
        return self._asked(
            method, f"{path}?{parameter}=", {**headers, "Authorization": f"{text[:16]} {credential}"}, body
        )

    def _asked(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = HTTPSConnection(self._address, context=context)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _program() -> Path:
    """It is built where it is not there; what prevents that fails a test and skips none."""
    try:
        return ensure_program(VERSITYGW)
    except ClusterError as error:
        pytest.fail(f"versitygw, from which S3 is read here, cannot be built: {error}")
