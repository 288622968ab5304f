"""`--model hf://…`: what is taken, where token and endpoint come from, what is read, and what is never printed."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.commands.model_source import open_source
from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.sources import Folder
from neuronmodel_worker.sources.hub.client import HubServer
from neuronmodel_worker.sources.hub.opening import given_token as token
from neuronmodel_worker.sources.remote.refusals import TokenInvalid
from tests.authority import Authority
from tests.paths import PROJECT
from tests.ports import free_port
from tests.standins.hub import Hub
from tests.unit.worker.commands.commands import Ended, Place, described, here
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, TOKEN, delivered, wait_little

MODEL = f"hf://{REPOSITORY}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and no variable of the Hub's client."""
    wait_little(monkeypatch)
    for name in [*os.environ]:
        if name.startswith("HF_") or name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, place.model)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def of_hub(command: str, place: Place, *more: object, model: str = MODEL) -> Ended:
    output = ("--output", place.output) if command == "shard" else ()
    return here(command, "--model", model, "--neuron-config", place.config, *output, *more)


REFUSED = {
    "hf://": "which the Hub does not allow",
    "hf://datasets/org/name": "no repository of a model",
    "hf://org/name/below": "something below a repository",
    "hf://org/name?revision=main": "no repository's name",
    "hf://org/na me": "which the Hub does not allow",
    "hf://org/name@": "none that git allows",
    "s3://Bucket/prefix": "no bucket's name",
    "s3://key:sesame@bucket/prefix": "without a user and a password",
    "S3://bucket/prefix": "which is read from nowhere",
    "gs://bucket": "which is read from nowhere",
}


@pytest.mark.parametrize("model", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence(model: str, place: Place) -> None:
    for command in ("plan", "shard", "load"):
        ended = of_hub(command, place, model=model)
        assert ended.code == exits.USAGE
        assert REFUSED[model] in ended.sentence
    assert not place.output.exists()


def test_anything_else_is_a_folder(tmp_path: Path) -> None:
    for name in (str(tmp_path), "relative/folder", "hf:/org/name"):
        assert isinstance(open_source(name), Folder)


@pytest.mark.parametrize(
    "endpoint",
    [
        "hub.example.com",
        "ftp://hub.example.com",
        "https://",
        "https://user:word@hub.example.com",
        "https://hub.example.com?token=planted",
        "https://hub.example.com#x",
    ],
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    ended = of_hub("plan", place)
    assert ended.code == exits.USAGE
    assert "HF_ENDPOINT has to be a URL such as https://hub.example.com" in ended.sentence
    assert "planted" not in ended.err
    assert "word@" not in ended.err


def test_an_endpoint_may_end_with_a_slash(hub: Hub, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/")
    assert of_hub("plan", place, "--no-measure").code == 0


def write(file: Path, text: str = TOKEN) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_the_token_comes_from_where_the_hubs_own_client_has_it(home: Path, tmp_path: Path) -> None:
    assert token({}) is None
    write(home / ".cache/huggingface/token", "of-home\n")
    assert token({}) == "of-home"
    write(tmp_path / "xdg/huggingface/token", "of-xdg")
    assert token({"XDG_CACHE_HOME": str(tmp_path / "xdg")}) == "of-xdg"
    variables = {"HF_HOME": str(write(tmp_path / "hf/token", "of-hf-home").parent)}
    assert token(variables) == "of-hf-home"
    variables |= {"HF_TOKEN_PATH": str(write(tmp_path / "path", " of-path \n"))}
    assert token(variables) == "of-path"
    variables |= {"HF_TOKEN": "of-variable"}
    assert token(variables) == "of-variable"
    assert token({"HF_TOKEN": "", "HF_TOKEN_PATH": "~/missing"}) is None


def test_a_user_without_a_home_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert token({}) is None


@pytest.mark.parametrize("text", ["two words", "line\nbreak", "tökén", "\x00"])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(hub: Hub, text: str, tmp_path: Path) -> None:
    for variables in ({"HF_TOKEN": text}, {"HF_TOKEN_PATH": str(write(tmp_path / "token", text))}):
        with pytest.raises(TokenInvalid, match="characters that no token has") as failure:
            open_source(f"hf://{REPOSITORY}", {"HF_ENDPOINT": hub.endpoint, **variables})
        assert text not in str(failure.value)
    assert not list(hub.requests)


def test_a_token_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageInvalid, match=f"The token in {tmp_path} cannot be read: Is a directory"):
        token({"HF_TOKEN_PATH": str(tmp_path)})


def test_a_private_repository_is_read_with_the_token(
    hub: Hub, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository(REPOSITORY).private = True
    hub.repository(REPOSITORY).grants.add("somebody")
    hub.add_token(TOKEN, "somebody")
    assert of_hub("plan", place).code == exits.BAD_INPUT
    monkeypatch.setenv("HF_TOKEN_PATH", str(write(tmp_path / "token")))
    assert of_hub("plan", place).code == 0
    assert hub.requests.leaks == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates_of_ones_own_come_from_a_variable(
    variable: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "authority").mkdir()
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("127.0.0.1")
    with Hub(certificate=certificate, key=key) as hub:
        hub.add_repository(REPOSITORY, place.model)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        ended = of_hub("load", place)
        assert ended.code == exits.BAD_INPUT
        assert "is not trusted" in ended.sentence
        monkeypatch.setenv(variable, str(authority.certificate))
        assert of_hub("load", place, "--quiet").code == 0
        monkeypatch.setenv(variable, str(place.config))
        assert f"The certificates in {place.config} cannot be read" in of_hub("load", place).sentence


def test_a_plan_reads_headers_alone(hub: Hub, tmp_path: Path) -> None:
    place = Place(tmp_path / "larger")
    small_source(place.model, files=3, hidden_size=512, vocab_size=4096, intermediate_size=1024)
    place.configure(tp_degree=4)
    hub.add_repository("org/larger", place.model)
    ended = of_hub("plan", place, "--json", model="hf://org/larger")
    assert ended.code == 0, ended.err
    sent = {record.file: record.bytes_sent for record in delivered(hub)}
    assert len(sent) == 3
    assert hub.requests.count(origin="cdn") == 3
    assert set(sent.values()) <= {256 << 10}
    assert sum(path.stat().st_size for path in place.model.glob("*.safetensors")) > 10 * sum(sent.values())


def test_the_document_is_that_of_the_folder_but_for_the_place(hub: Hub, place: Place) -> None:
    document, of_folder = (
        json.loads(of_hub("plan", place, "--json", "--no-measure", model=model).out)
        for model in (MODEL, str(place.model))
    )
    assert document["tensors"] == of_folder["tensors"]
    assert document["source"]["bytes_read"] == of_folder["source"]["bytes_read"]
    assert document["output"] == of_folder["output"]
    assert (document["source"]["revision"], of_folder["source"]["revision"]) == (hub.repository(REPOSITORY).main, None)


def test_a_plan_names_the_whole_commit(hub: Hub, place: Place) -> None:
    assert f"commit         {hub.repository(REPOSITORY).main}\n" in of_hub("plan", place, "--no-measure").out


def test_shards_are_those_of_the_folder_and_verified(hub: Hub, place: Place) -> None:
    place.sharded()
    expected = described(place.weights)
    for path in place.weights.iterdir():
        path.unlink()
    ended = of_hub("shard", place)
    assert ended.code == 0, ended.err
    assert described(place.weights) == expected
    assert here("verify", "--full", place.output).code == 0


def test_ranks_of_one_commit_come_together_from_several_runs(hub: Hub, place: Place) -> None:
    for ranks in ("0-1", "2-3"):
        ended = of_hub("shard", place, "--ranks", ranks)
        assert (ended.code, ended.err) == (0, "")
    assert len(described(place.weights)) == 4
    assert here("verify", "--full", place.output).code == 0


def test_a_repository_is_loaded_from_a_tag(hub: Hub, place: Place) -> None:
    hub.add_revision(REPOSITORY, place.model, "v1")
    ended = of_hub("load", place, "--quiet", model=f"{MODEL}@v1")
    assert ended.code == 0, ended.err
    assert "loaded" in ended.out


def down(hub: Hub) -> None:
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"


def gated(hub: Hub) -> None:
    hub.repository(REPOSITORY).gated = "manual"


CODES: dict[str, tuple[Callable[[Hub], Any], str, int, str]] = {
    "missing": (lambda hub: hub.rename(REPOSITORY, "org/a"), "hf://org/b", exits.BAD_INPUT, "There is no public org/b"),
    "revision": (lambda hub: None, f"{MODEL}@v9", exits.BAD_INPUT, "has no revision v9"),
    "gated": (gated, MODEL, exits.BAD_INPUT, "ask for access at"),
    "unreachable": (down, MODEL, exits.TRANSIENT, "cannot be reached"),
    "page": (lambda hub: hub.faults.add(html=True), MODEL, exits.BAD_INPUT, "does not speak the Hub's API"),
    "limited": (
        lambda hub: hub.faults.add(status=429, set_headers={"Retry-After": "999"}),
        MODEL,
        exits.TRANSIENT,
        "limits the rate of requests",
    ),
    "changed": (
        lambda hub: hub.faults.add(method="HEAD", set_headers={"X-Linked-Size": "1"}),
        MODEL,
        exits.SOURCE_CHANGED,
        "lists another content",
    ),
    "delivery": (
        lambda hub: hub.faults.add(origin="cdn", status=403),
        MODEL,
        exits.BAD_INPUT,
        "refuses to give it: status code: 403",
    ),
}


@pytest.mark.parametrize("name", CODES)
def test_each_failure_is_a_sentence_and_an_exit_code(
    name: str, hub: Hub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, model, code, words = CODES[name]
    change(hub)
    for command in ("plan", "shard", "load"):
        ended = of_hub(command, place, model=model)
        assert ended.code == code, ended.err
        assert words in ended.sentence
    assert not place.output.exists()


def test_for_a_folder_nothing_of_a_network_is_imported(place: Place) -> None:
    program = (
        "import sys; from neuronmodel_worker.cli import main; code = main(sys.argv[1:]); "
        "print(code, *[name for name in sys.modules if name.split('.')[0] == 'obstore' or 'sources.remote' in name"
        " or 'sources.hub.' in name and not name.endswith('address')])"
    )
    command = [sys.executable, "-c", program, *map(str, place.shard)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "0"


FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "refused": {"origin": "cdn", "status": 403},
    "busy": {"origin": "cdn", "status": 503},
    "cut": {"origin": "cdn", "cut_after_bytes": 9},
    "reset": {"cut_before_headers": True, "reset": True, "nth": 4},
    "page": {"origin": "cdn", "html": True},
    "gone": {"origin": "cdn", "status": 404},
    "other_range": {"origin": "cdn", "set_headers": {"Content-Range": "bytes 1-2/3"}},
    "of_the_hub": {"origin": "hub", "path": "*/resolve/*", "method": "HEAD", "status": 403},
    "redirect": {
        "origin": "hub",
        "path": "*.safetensors",
        "status": 302,
        "set_headers": {"Location": "http://127.0.0.1:9/x y?Policy=PlantedPolicy&Signature=PlantedSignature"},
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_neither_token_nor_signature_is_printed_logged_or_written(
    fault: str, hub: Hub, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = ["PlantedPolicy", "PlantedSignature", TOKEN]
    query = hub.signer.query

    def planted(path: str, file_name: str) -> str:
        made = query(path, file_name)
        secrets.extend(part.partition("=")[2] for part in made.split("&") if part.startswith(("Policy", "Signature")))
        return made

    monkeypatch.setattr(hub.signer, "query", planted)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NEURONMODEL_DEBUG", "1")
    hub.add_token(TOKEN, "somebody")
    if FAULTS[fault]:
        hub.faults.add(**FAULTS[fault])
    with caplog.at_level(logging.DEBUG):
        ended = [of_hub(command, place) for command in ("plan", "shard", "load")]
    printed = "".join(each.out + each.err for each in ended) + caplog.text
    written = "".join(path.read_text("latin-1") for path in place.root.rglob("*") if path.is_file())
    assert any(each.code for each in ended) == (fault not in ("none", "reset"))
    for secret in secrets:
        assert secret not in printed
        assert secret not in written
    assert "Signature=" not in printed
    assert hub.requests.leaks == []


def test_the_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(HubServer("https://hub.example", lambda: TOKEN))
