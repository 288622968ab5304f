"""What ends the build of an image on a base that lacks something."""

import os
import subprocess
import sys

from tests.paths import PROJECT

SCRIPT = PROJECT / "worker" / "check_requirements.py"


def checked(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_a_base_that_has_everything_is_taken() -> None:
    assert checked().stderr == ""


def test_a_base_without_certificates_of_authorities_is_refused() -> None:
    ended = checked(SSL_CERT_FILE="/nowhere/certificates.pem", SSL_CERT_DIR="/nowhere")
    assert ended.returncode == 1
    sentences = ended.stderr.splitlines()
    assert [sentence.split()[0] for sentence in sentences] == ["Python", "obstore"]
    assert all(sentence.endswith("Install ca-certificates.") for sentence in sentences)
