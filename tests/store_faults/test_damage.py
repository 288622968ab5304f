"""Every class of byte in a sealed set is damaged in turn: found before anything is served from it, put apart with the
reason, rebuilt, and reported."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from neuronmodel_api.config import Verification
from neuronmodel_api.report import Result
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew
from neuronmodel_worker.store import COMPILED, SHARDS, Store
from tests.store_faults.conftest import write_source
from tests.store_faults.expected import MANIFEST, check_sets, rank_path, remains
from tests.store_faults.forking import ForkServer
from tests.store_faults.jobs import Failed, Model, prepare, unsynced


@dataclass(frozen=True)
class Sealed:
    """Two models with the same layout and other weights, whose sets are sealed on one volume."""

    root: Path
    model: Model
    result: Result
    other: Result
    shards: dict[str, Model]

    @property
    def directory(self) -> Path:
        return self.root / "shards" / str(self.result.shards_key)

    @property
    def others_directory(self) -> Path:
        return self.root / "shards" / str(self.other.shards_key)

    @property
    def compiled(self) -> Path:
        return self.root / "compiled" / self.result.compiled_key


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, source: Path, server: ForkServer) -> Sealed:
    root = tmp_path_factory.mktemp("store")
    model = Model(root, source)
    other = Model(root, write_source(tmp_path_factory.mktemp("other"), kind=2), "other")
    results = [server.run(partial(unsynced, prepare, each)) for each in (model, other)]
    assert all(isinstance(result, Result) for result in results)
    shards = {str(result.shards_key): each for result, each in zip(results, (model, other), strict=True)}
    return Sealed(root, model, results[0], results[1], shards)


@pytest.fixture
def sealed(template: Sealed, tmp_path: Path) -> Sealed:
    root = tmp_path / "store"
    shutil.copytree(template.root, root, symlinks=True)
    return replace(template, root=root, model=replace(template.model, root=root))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def manifest_with(directory: Path, **fields: object) -> None:
    """As somebody would write it who knows nothing of its checksum."""
    path = directory / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def swap(one: Path, two: Path) -> None:
    kept = one.with_name("kept")
    one.rename(kept)
    two.rename(one)
    kept.rename(two)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def file_instead(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("")


def replace_tree(directory: Path, by: Path) -> None:
    shutil.rmtree(directory)
    shutil.copytree(by, directory)


def cut(path: Path, nbytes: int) -> None:
    os.truncate(path, path.stat().st_size + nbytes)


QUICK: dict[str, Callable[[Sealed], object]] = {
    "manifest_missing": lambda s: (s.directory / MANIFEST).unlink(),
    "manifest_empty": lambda s: (s.directory / MANIFEST).write_text(""),
    "manifest_truncated": lambda s: cut(s.directory / MANIFEST, -20),
    "manifest_is_a_folder": lambda s: folder_instead(s.directory / MANIFEST),
    "manifest_of_zeros": lambda s: (s.directory / MANIFEST).write_bytes(bytes((s.directory / MANIFEST).stat().st_size)),
    "manifest_of_another_key": lambda s: shutil.copy(s.others_directory / MANIFEST, s.directory / MANIFEST),
    "manifest_of_another_kind": lambda s: manifest_with(s.directory, kind="compiled"),
    "manifest_without_a_file": lambda s: manifest_with(s.directory, files={}),
    "header_flipped": lambda s: flip(rank_path(s.directory, 1), 100),
    "length_of_header_flipped": lambda s: flip(rank_path(s.directory, 1), 1),
    "rank_truncated": lambda s: cut(rank_path(s.directory, 0), -1),
    "rank_empty": lambda s: os.truncate(rank_path(s.directory, 0), 0),
    "rank_longer": lambda s: cut(rank_path(s.directory, 0), 1),
    "rank_missing": lambda s: rank_path(s.directory, 0).unlink(),
    "rank_dangles": lambda s: link_instead(rank_path(s.directory, 0)),
    "rank_too_many": lambda s: shutil.copy(rank_path(s.directory, 0), rank_path(s.directory, 2)),
    "something_else_too_many": lambda s: (s.directory / "weights" / "notes.txt").write_text("?"),
    "ranks_swapped": lambda s: swap(rank_path(s.directory, 0), rank_path(s.directory, 1)),
    "another_models_set": lambda s: replace_tree(s.directory, s.others_directory),
    "another_models_rank": lambda s: shutil.copy(rank_path(s.others_directory, 1), rank_path(s.directory, 1)),
    "source_json_missing": lambda s: (s.directory / "source.json").unlink(),
    "source_json_truncated": lambda s: cut(s.directory / "source.json", -1),
    "no_folder_of_weights": lambda s: shutil.rmtree(s.directory / "weights"),
    "nothing_left": lambda s: empty(s.directory),
    "a_file_in_its_place": lambda s: file_instead(s.directory),
}
COMPILED_QUICK: dict[str, Callable[[Sealed], object]] = {
    "compiled_missing": lambda s: (s.compiled / "graph.bin").unlink(),
    "compiled_truncated": lambda s: cut(s.compiled / "graph.bin", -1),
    "compiled_too_many": lambda s: (s.compiled / "more.bin").write_text("?"),
    "compiled_manifest_missing": lambda s: (s.compiled / MANIFEST).unlink(),
}
DATA_ALONE: dict[str, Callable[[Sealed], object]] = {
    "first_byte_of_data": lambda s: flip(rank_path(s.directory, 0), -rank_data(s)),
    "last_byte_of_data": lambda s: flip(rank_path(s.directory, 1), -1),
    "middle_of_data": lambda s: flip(rank_path(s.directory, 1), -rank_data(s) // 2),
    "source_json_flipped": lambda s: flip(s.directory / "source.json", -30),
    "compiled_flipped": lambda s: flip(s.compiled / "graph.bin", 50),
}


def rank_data(sealed: Sealed) -> int:
    """Bytes of a rank file after its header."""
    content = rank_path(sealed.directory, 0).read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def serving_finds(sealed: Sealed, verification: Verification) -> list[str]:
    """What a read-only store finds wrong with both sets."""
    store, found = Store(sealed.root, read_only=True), []
    for kind, key in ((COMPILED, sealed.result.compiled_key), (SHARDS, str(sealed.result.shards_key))):
        try:
            assert store.find(kind, key, verification=verification)  # type: ignore[arg-type]
        except ArtifactDamaged as damage:
            found.append(f"{kind}: {damage}")
    return found


def assert_put_right(sealed: Sealed, server: ForkServer, kind: str, verification: Verification) -> None:
    model = replace(sealed.model, verification=verification)
    (finding,) = serving_finds(sealed, verification)
    assert finding.startswith(kind)
    result = server.run(partial(unsynced, prepare, model))
    assert isinstance(result, Result)
    assert (result.compiled_cache, result.shards_cache) == (("Hit", "Miss") if kind == SHARDS else ("Miss", "Hit"))
    (reason,) = result.quarantined
    assert "damaged" in reason
    assert result.missed
    assert reason.removesuffix(".")[:60] in result.missed
    (apart,) = (path for path in (sealed.root / "quarantine").iterdir() if path.name.endswith(".reason.txt"))
    assert apart.read_text().strip()[:60] == reason[:60]
    assert apart.with_name(apart.name.removesuffix(".reason.txt")).exists()
    assert len(check_sets(sealed.root, sealed.shards)) == 3
    assert remains(sealed.root) == []
    assert serving_finds(sealed, Verification.FULL) == []
    again = server.run(partial(unsynced, prepare, model))
    assert (again.cache, again.quarantined) == ("Hit", ())


def test_what_is_whole_is_served(sealed: Sealed) -> None:
    assert serving_finds(sealed, Verification.QUICK) == serving_finds(sealed, Verification.FULL) == []


@pytest.mark.parametrize("damage", QUICK)
def test_damage_to_shards_is_found_by_the_quick_check(damage: str, sealed: Sealed, server: ForkServer) -> None:
    QUICK[damage](sealed)
    assert_put_right(sealed, server, SHARDS, Verification.QUICK)


@pytest.mark.parametrize("damage", COMPILED_QUICK)
def test_damage_to_a_compiled_model_is_found_by_the_quick_check(
    damage: str, sealed: Sealed, server: ForkServer
) -> None:
    COMPILED_QUICK[damage](sealed)
    assert_put_right(sealed, server, COMPILED, Verification.QUICK)


@pytest.mark.parametrize("damage", DATA_ALONE)
def test_damage_to_data_alone_is_found_by_the_full_check(damage: str, sealed: Sealed, server: ForkServer) -> None:
    DATA_ALONE[damage](sealed)
    assert serving_finds(sealed, Verification.QUICK) == []
    kind = COMPILED if damage.startswith("compiled") else SHARDS
    assert_put_right(sealed, server, kind, Verification.FULL)


def test_every_byte_of_a_manifest_counts(sealed: Sealed) -> None:
    """One bit at each place in turn."""
    path = sealed.directory / MANIFEST
    content, unnoticed = path.read_bytes(), []
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            if not serving_finds(sealed, Verification.QUICK):
                unnoticed.append(position)
        except ArtifactsTooNew:
            assert b'"format"' in content[position - 20 : position]
    # A space may turn into what JSON takes for the same; without its name the checksum says nothing, nor is it needed.
    name = content.index(b"checksum")
    wrong = [place for place in unnoticed if content[place] not in b" \n" and place not in range(name, name + 8)]
    assert wrong == []


def test_a_set_of_a_newer_format_is_left_as_it_is(sealed: Sealed, server: ForkServer) -> None:
    manifest_with(sealed.directory, format=99)
    with pytest.raises(ArtifactsTooNew):
        serving_finds(sealed, Verification.QUICK)
    before = (sealed.directory / MANIFEST).read_bytes()
    result = server.run(partial(unsynced, prepare, sealed.model))
    assert isinstance(result, Failed)
    assert result.reason == "ArtifactsTooNew"
    assert (sealed.directory / MANIFEST).read_bytes() == before
