"""What becomes of published command lines is what they ask for."""

from collections import Counter

import pytest

from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_worker.commands.migrate.neuronmodel import Converted
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from tests.paths import PROJECT
from tests.published_commands import DROPPED, REFUSED, TAKEN, WHY, Entry, converted, document, source

PAGE = PROJECT / "docs" / "reference" / "commands.md"


def summary(found: Converted) -> Entry:
    """In the form of the entries."""
    made = document(found)
    spec = made["spec"]
    compiled = dict(spec["compile"])
    extra = {item["name"]: item["value"] for item in compiled.pop("extra", ())}
    return {
        "name": made["metadata"]["name"],
        "type": spec["model"]["type"],
        "engine": spec["engine"],
        "parallelism": spec["parallelism"],
        "compile": compiled | ({"extra": extra} if extra else {}),
        "strategy": spec["sharding"]["strategy"],
        "native": spec["sharding"].get("weights") == "Native",
        "vllm": spec.get("serving", {}).get("server") == "VLLM",
        "suspend": spec.get("suspend", False),
        "env": {item["name"]: item["value"] for item in spec.get("worker", {}).get("env", ())},
        "left_out": sorted(each.what for each in found.left_out),
        "corrections": sorted({each.line for each in found.corrections}),
    }


@pytest.mark.parametrize("entry", TAKEN, ids=source)
def test_a_published_command_becomes_what_it_asks_for(entry: Entry) -> None:
    expected = {"corrections": [], "env": {}} | entry["expects"]
    found = converted(entry)
    assert summary(found) == expected | {"left_out": sorted(expected["left_out"])}
    assert NeuronModelSpec.model_validate(document(found)["spec"])


@pytest.mark.parametrize("entry", REFUSED, ids=source)
def test_a_published_command_that_cannot_be_taken_is_refused_with_its_line(entry: Entry) -> None:
    assert entry["why"]
    assert entry["because"] in WHY
    with pytest.raises(NotUnderstood) as refusal:
        converted(entry)
    assert str(refusal.value).startswith(f"Line {entry['refused']['line']}: ")
    assert entry["refused"]["says"] in str(refusal.value)


@pytest.mark.parametrize("entry", DROPPED, ids=source)
def test_what_is_dropped_has_its_reason(entry: Entry) -> None:
    assert entry["dropped"]
    assert not entry.keys() & {"expects", "refused"}


def test_nine_of_ten_that_can_be_one_neuronmodel_are_taken_and_the_page_says_how_many() -> None:
    count = Counter(entry["because"] for entry in REFUSED)
    whole = len(TAKEN) + count["script"]
    assert len(TAKEN) + len(REFUSED) >= 80
    assert len(TAKEN) >= 0.9 * whole
    page = " ".join(PAGE.read_text().split())
    assert f"{len(TAKEN) + len(REFUSED)} command lines" in page
    assert f"Of the {whole} that are whole and can be one NeuronModel, {len(TAKEN)} are taken" in page
    assert f"{count['release']} have flags or words of other releases, {count['incomplete']} are incomplete" in page
    assert f"{count['library']} are refused by NxD Inference itself" in page
    assert f"{count['several']} are several commands in one" in page
