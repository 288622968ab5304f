"""Names of repositories and revisions, as they are written after --model."""

import pytest

from neuronmodel_worker.sources.hub.address import HubAddress


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://org/name", "org/name", "main"),
        ("hf://org/name@v1.0", "org/name", "v1.0"),
        ("hf://models/org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("hf://gpt2", "gpt2", "main"),
        ("hf://org/Llama-3.1_70B@" + "a" * 40, "org/Llama-3.1_70B", "a" * 40),
    ],
)
def test_a_repository_and_a_revision_are_taken(text: str, repository: str, revision: str) -> None:
    address = HubAddress.parse(text)
    assert (address.repository, address.revision) == (repository, revision)
    assert address.is_commit == (len(revision) == 40)
    assert HubAddress.parse(str(address)) == address


REFUSED = {
    "hf://": "which the Hub does not allow",
    "hf:///": "which the Hub does not allow",
    "hf://org/": "which the Hub does not allow",
    "hf:// org/name": "which the Hub does not allow",
    "hf://org/na me": "which the Hub does not allow",
    "hf://org/name\n": "which the Hub does not allow",
    "hf://org/na--me": "which the Hub does not allow",
    "hf://org/na..me": "which the Hub does not allow",
    "hf://../etc": "which the Hub does not allow",
    "hf://org/name.git": "which the Hub does not allow",
    "hf://örg/name": "which the Hub does not allow",
    "hf://" + "o" * 97 + "/name": "which the Hub does not allow",
    "hf://org/name@": "which is none that git allows",
    "hf://org/name@-x": "which is none that git allows",
    "hf://org/name@a b": "which is none that git allows",
    "hf://org/name@a/../b": "which is none that git allows",
    "hf://org/name@main?x=1": "which is none that git allows",
    "hf://org/name@a@b": "which is none that git allows",
    "hf://datasets/org/name": "no repository of a model",
    "hf://spaces/org/name": "no repository of a model",
    "hf://org/name/below": "something below a repository",
    "hf://org/name/model.safetensors@main": "something below a repository",
    "hf://org/name?revision=main": "no repository's name",
    "hf://org/name#x": "no repository's name",
    "hf://https://huggingface.co/org/name": "no repository's name",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_model_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[text]) as failure:
        HubAddress.parse(text)
    assert "Write it as hf://ORGANISATION/NAME" in str(failure.value)
