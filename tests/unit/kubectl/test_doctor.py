"""The archive of `kubectl nm doctor`: all that can be read, and no secret in any of it."""

import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_kubectl.redaction import LEFT_OUT, Redaction
from tests.unit.kubectl.conftest import FakeKubectl, a_model, a_pod, condition, run

PASSWORD = "correct horse battery staple"
TOKEN = "hf_abcdefghijklmnopqrstuvwx"
KINDS = ("deployments", "replicasets", "jobs", "services", "persistentvolumeclaims")


@pytest.fixture
def cluster(kubectl: FakeKubectl) -> FakeKubectl:
    variables = [
        {"name": "PROXY_LOGIN", "value": PASSWORD},
        {"name": "NEURONMODEL_CONFIG", "value": '{"name": "smol"}'},
    ]
    model = a_model(spec={"worker": {"env": variables}}, conditions=[condition("Ready", "False", "WorkerCrashed")])
    model["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(model)}
    pod = a_pod("smol-1", restarts=1)
    pod["spec"]["containers"][0]["env"] = variables
    kubectl.has_model(model)
    kubectl.has("get", "pods", "--namespace", answer={"items": [pod]})
    for kind in KINDS:
        kubectl.has("get", kind, answer={"items": []})
    about = {"involvedObject": {"uid": "uid-smol"}, "message": "https://user:geheim@host/ said no", "metadata": {}}
    other = {"involvedObject": {"uid": "uid-other"}, "message": "of another", "metadata": {}}
    kubectl.has("get", "events", answer={"items": [about, other]})
    kubectl.has("get", "pvc", "models", answer={"metadata": {"name": "models"}})
    kubectl.answers("--previous", "smol-1", prints=f"asked with {PASSWORD} and {TOKEN}\n")
    kubectl.answers("logs", "smol-1", prints="Authorization: Bearer abc.def\nall is well\n")
    kubectl.has("--raw", answer={"stage": "Serve"})
    return kubectl


def opened(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as files:
        return {
            entry.name.partition("/")[2]: (files.extractfile(entry) or pytest.fail(entry.name)).read().decode()
            for entry in files
        }


def collected(tmp_path: Path) -> dict[str, str]:
    assert run("doctor", "smol", "-n", "demo", "-f", str(tmp_path / "d.tar.gz")) == 0
    return opened(tmp_path / "d.tar.gz")


def test_everything_that_belongs_to_it_is_there(cluster: FakeKubectl, tmp_path: Path) -> None:
    files = collected(tmp_path)
    assert json.loads(files["neuronmodel.json"])["status"]["conditions"][0]["reason"] == "WorkerCrashed"
    assert json.loads(files["claims.json"]) == [{"metadata": {"name": "models"}}]
    assert len(json.loads(files["events.json"])) == 1
    assert "all is well" in files["logs/serve-smol-1.log"]
    assert "logs/serve-smol-1-previous.log" in files
    assert json.loads(files["reports/smol-1.json"]) == {"stage": "Serve"}
    assert {f"{kind}.json" for kind in (*KINDS, "pods")} <= files.keys()
    assert "secrets" not in " ".join(word for call in cluster.calls for word in call)


def test_no_secret_is_in_it(cluster: FakeKubectl, tmp_path: Path) -> None:
    files = collected(tmp_path)
    everything = "\n".join(files.values())
    for secret in (PASSWORD, TOKEN, "geheim", "abc.def"):
        assert secret not in everything
    assert LEFT_OUT in files["neuronmodel.json"]
    assert '{\\"name\\": \\"smol\\"}' in files["pods.json"]
    assert "last-applied" not in everything


def test_what_may_not_be_read_is_named_and_ends_nothing(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kubectl.has_model(a_model())
    files = collected(tmp_path)
    assert "pods: Error from server (Forbidden)" in files["problems.txt"]
    assert "not in it: events: Error" in capsys.readouterr().out
    assert "neuronmodel.json" in files


def test_only_its_owner_may_read_it(cluster: FakeKubectl, tmp_path: Path) -> None:
    collected(tmp_path)
    assert stat.S_IMODE((tmp_path / "d.tar.gz").stat().st_mode) == 0o600


def test_of_the_operators_log_only_lines_about_it_are_there(kubectl: FakeKubectl, tmp_path: Path) -> None:
    kubectl.has_model(a_model())
    operator = a_pod("neuronmodel-1", restarts=1)
    operator["metadata"]["namespace"] = "system"
    operator["status"]["containerStatuses"][0]["name"] = "operator"
    kubectl.has("pods", "--all-namespaces", answer={"items": [operator]})
    kubectl.answers("logs", "--previous", prints="demo/smol: before\ndemo/smol-2: before\n")
    kubectl.answers("logs", prints="demo/smol: now\ndemo/other: now\n")
    files = collected(tmp_path)
    assert files["operator/system-neuronmodel-1.log"] == "demo/smol: now\n"
    assert files["operator/system-neuronmodel-1-previous.log"] == "demo/smol: before\n"


def test_a_log_that_is_no_text_ends_nothing(kubectl: FakeKubectl, tmp_path: Path) -> None:
    kubectl.has_model(a_model())
    kubectl.has("get", "pods", "--namespace", answer={"items": [a_pod("smol-1")]})
    kubectl.answers("logs", prints="half a character: \udcff\n")
    assert "half a character: \ufffd" in collected(tmp_path)["logs/serve-smol-1.log"]


def test_a_place_that_cannot_be_written_is_one_sentence(
    cluster: FakeKubectl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("doctor", "smol", "-f", str(tmp_path / "none" / "d.tar.gz")) == 1
    assert "can't be written: No such file or directory." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("--api-key=abcd1234", "abcd1234"),
        ('{"api_key": "abcd1234"}', "abcd1234"),
        ('{"text": "{\\"password\\": \\"abcd1234\\"}"}', "abcd1234"),
        ("'api_key': ['sk-abcd1234']", "abcd1234"),
        ('password: "abc,d1234"', "d1234"),
        ("password: abcd1234", "abcd1234"),
        ("AWS_SECRET_ACCESS_KEY=abcd1234/+x", "abcd1234"),
        ("s3 said AKIAABCDEFGHIJKLMNOP is unknown", "AKIAABCDEFGHIJKLMNOP"),
        ("GET /x?X-Amz-Signature=abcd1234&y=1", "abcd1234"),
        ("GET /x?Expires=1&Policy=abcd1234&Key-Pair-Id=K1", "abcd1234"),
        ("GET /x?sv=1&sig=abcd1234", "abcd1234"),
        ("http://user:abcd1234@proxy:3128", "abcd1234"),
        ("http://user:p@abcd1234@proxy:3128", "abcd1234"),
        ("Authorization: Basic abcd1234", "abcd1234"),
        ("Authorization: Token abcd1234", "abcd1234"),
        ("Bearer abcd1234.efgh5678", "abcd1234"),
        ("token=hf_abcd1234efgh", "hf_abcd1234efgh"),
        ("with hf_oauth_abcd1234efgh5678ijkl", "abcd1234"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abcd1234", "abcd1234"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabcd1234\n-----END RSA PRIVATE KEY-----", "abcd1234"),
    ],
)
def test_what_looks_like_a_secret_is_left_out_of_a_text(text: str, secret: str) -> None:
    assert secret not in Redaction().text(f"before {text} after")
    assert Redaction().text(f"before {text} after").startswith("before ")


@pytest.mark.parametrize(
    "text",
    [
        "the tokenizer was read in 0.2 s: 49,152 tokens",
        "Set spec.model.source.huggingFace.tokenSecretRef to a Secret.",
        "1024 prompt tokens, 12 generated",
        "https://huggingface.co/org/name@main",
        '{"pad_token_id":128001,"max_num_batched_tokens": 8192}',
        "ApiKeyInvalid: The key can't be used.",
        "TokenizerInvalid: tokenizer.json is garbled",
        "tokenSecretRef.name: Invalid value",
        "Basic authentication failed",
        "hf_transfer and hf_overrides, HF_ENDPOINT=1",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redaction().text(text) == text


def test_a_copy_of_the_object_as_text_is_no_way_out() -> None:
    copy = json.dumps({"env": [{"name": "PIN", "value": 'pa"ss\\w\u00f6rd1'}]})
    made = {"metadata": {"annotations": {"neuronmodel.dev/rendered": copy, "a-copy": copy, "vault.io/token": "s.abc"}}}
    annotations = Redaction().object(made)["metadata"]["annotations"]
    assert annotations.keys() == {"a-copy", "vault.io/token"}
    assert json.loads(annotations["a-copy"]) == {"env": [{"name": "PIN", "value": LEFT_OUT}]}
    assert annotations["vault.io/token"] == LEFT_OUT


def test_the_argument_of_a_secretive_flag_is_left_out() -> None:
    made = {"args": ["--api-key", "sk-123456", "--port", "80", "--token-limit", "5"]}
    assert Redaction().object(made) == {"args": ["--api-key", LEFT_OUT, "--port", "80", "--token-limit", "5"]}


def test_each_line_of_a_value_is_looked_for_and_a_plain_word_is_not() -> None:
    redaction = Redaction()
    values = {"KEY": "first-line-1\nsecond-line-2\n", "LEVEL": "WARNING", "REGION": "us-east-1", "HOME_OF": "/models/x"}
    redaction.learn([{"env": [{"name": name, "value": value} for name, value in values.items()]}])
    text = "10:00 first-line-1\n10:01 second-line-2\nWARNING in us-east-1a at /models/x"
    assert redaction.text(text) == f"10:00 {LEFT_OUT}\n10:01 {LEFT_OUT}\nWARNING in us-east-1a at /models/x"


@pytest.mark.parametrize("value", ["a", "on", "info"])
def test_a_short_value_is_left_out_where_it_stands_and_not_looked_for_elsewhere(value: str) -> None:
    redaction = Redaction()
    made: dict[str, Any] = {"env": [{"name": "MODE", "value": value}]}
    redaction.learn([made])
    assert redaction.object(made) == {"env": [{"name": "MODE", "value": LEFT_OUT}]}
    assert redaction.text("a plain information") == "a plain information"
