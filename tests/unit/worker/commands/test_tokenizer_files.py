"""What lies in place of a tokenizer's files is warned of, and shards are made all the same."""

import json

import pytest

from tests.unit.worker.commands.commands import Place, here

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0a" * 32 + "\nsize 4976698672\n"


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
)
def test_a_pointer_in_place_of_a_file_of_text_is_warned_of(name: str, place: Place) -> None:
    (place.model / name).write_text(LFS)
    planned = here("plan", *place.source, "--json", "--no-measure")
    assert planned.code == 0
    (warning,) = json.loads(planned.out)["warnings"]
    assert f"{place.model / name} is a git-lfs pointer" in warning
    assert f"{name} is a git-lfs pointer" in place.sharded().sentence


def test_a_link_that_leads_nowhere_is_warned_of(place: Place) -> None:
    (place.model / "tokenizer.json").symlink_to("../blobs/0a")
    (warning,) = json.loads(here("plan", *place.source, "--json", "--no-measure").out)["warnings"]
    assert "tokenizer.json is a symbolic link to ../blobs/0a" in warning


def test_files_that_are_absent_or_may_be_empty_are_no_matter(place: Place) -> None:
    for name in ("generation_config.json", "chat_template.jinja"):
        (place.model / name).write_bytes(b"")
    assert json.loads(here("plan", *place.source, "--json", "--no-measure").out)["warnings"] == []
