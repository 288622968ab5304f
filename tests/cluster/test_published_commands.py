"""The API server takes what becomes of published command lines, but for what is to be filled in first."""

import json
from pathlib import Path

from tests.cluster.conftest import Kubectl
from tests.published_commands import TAKEN, converted, document

DOCUMENTS = [json.dumps(document(converted(entry))) for entry in TAKEN]


def test_what_is_printed_is_taken(kubectl: Kubectl, tmp_path: Path) -> None:
    whole = [text for text in DOCUMENTS if "FILL IN" not in text]
    assert len(whole) >= 70
    file = tmp_path / "neuronmodels.yaml"
    file.write_text("\n---\n".join(whole))
    kubectl("apply", "--dry-run=server", "--validate=strict", f"--filename={file}")


def test_what_is_to_be_filled_in_is_refused(kubectl: Kubectl) -> None:
    gaps = [text for text in DOCUMENTS if "FILL IN" in text]
    assert gaps
    for text in gaps:
        ended = kubectl.attempt("kubectl", "apply", "--dry-run=server", "--filename=-", stdin=text)
        assert ended.returncode != 0
        assert "spec.compile.extra" in ended.stderr
