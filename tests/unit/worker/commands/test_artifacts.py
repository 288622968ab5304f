"""`neuronmodel artifacts`: for people, on the volume itself."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.commands.quantities import age_of, bytes_of, shown_age
from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.store import Store
from tests.unit.worker.commands.commands import Ended, here, neuronmodel
from tests.unit.worker.store.test_building import begin_and_stop

ONE, TWO = "1" * 32, "12" * 16
OWNER = "ns.llama.0a1b"


def seal(store: Store, key: str, content: bytes = b"graph", **inputs: Any) -> Path:
    with store.stage("compiled", key) as staging:
        (staging.directory / "model.pt").write_bytes(content)
        return staging.seal({"inputs": inputs}).directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """ONE is referred to, TWO is not."""
    store = Store(tmp_path / "volume")
    seal(store, ONE, compiler="1.0", graph={"tp_degree": 4})
    seal(store, TWO, b"another")
    store.refer("compiled", ONE, OWNER)
    return store


def artifacts(store: Store, action: str, *more: object) -> Ended:
    return here("artifacts", action, "--store", store.root, *more)


def everything_below(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_ctime_ns for path in root.rglob("*")}


def test_a_list_shows_what_is_whole_half_and_damaged_and_changes_nothing(store: Store) -> None:
    begin_and_stop(store)
    third = seal(store, "3" * 32)
    seal(store, "4" * 32)
    store.quarantine("compiled", "4" * 32, "It fell down.")
    (third / "model.pt").unlink()
    before = everything_below(store.root)
    ended = neuronmodel("artifacts", "list", "--store", store.root)
    assert (ended.code, ended.err) == (0, "")
    heading, *lines = ended.out.splitlines()
    assert heading.split() == ["KIND", "KEY", "SIZE", "AGE", "REFERENCES", "STATE"]
    line_of = {line.split()[1]: line for line in lines}
    assert line_of[ONE].startswith(f"compiled  {ONE}  ")
    assert line_of[ONE].endswith(f"{OWNER}  sealed")
    assert line_of[TWO].split()[-2:] == ["none", "sealed"]
    assert line_of["3" * 32].endswith("damaged: model.pt is missing")
    assert line_of["4" * 32].endswith("in quarantine: It fell down.")
    assert line_of["0" * 32].endswith("left by a writer that is gone")
    assert everything_below(store.root) == before


def test_a_list_as_json_has_all_of_it(store: Store) -> None:
    one, two = json.loads(artifacts(store, "list", "--json").out)
    assert (one["kind"], one["key"], one["references"], one["state"]) == ("compiled", ONE, [OWNER], "sealed")
    assert (two["what"], two["references"]) == ("set", [])
    assert Path(two["path"]).is_dir()


def test_a_set_is_shown_with_what_it_was_made_from(store: Store) -> None:
    out = artifacts(store, "show", "111").out
    assert f"key         {ONE}\n" in out
    assert f"references  {OWNER}\n" in out
    assert 'input       compiler = "1.0"\ninput       graph.tp_degree = 4\n' in out
    assert "file        model.pt, 5 bytes, xxh3-128 " in out
    shown = json.loads(artifacts(store, "show", ONE, "--json").out)
    assert shown["manifest"]["files"]["model.pt"]["nbytes"] == 5


@pytest.mark.parametrize(
    ("key", "message"), [("9", "has the key '9'"), ("1", "2 sets in .* begin with '1'. Give more of the key")]
)
def test_a_key_has_to_be_the_one_of_one_set(key: str, message: str, store: Store) -> None:
    for action in ("show", "verify"):
        ended = artifacts(store, action, key)
        assert ended.code == exits.USAGE
        assert_reported(ended, message)


def assert_reported(ended: Ended, pattern: str) -> None:
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(ended.sentence)


def test_a_manifest_that_cannot_be_read_is_reported_as_damaged(store: Store) -> None:
    (store.path("compiled", ONE) / "manifest.json").write_text("{")
    ended = artifacts(store, "show", ONE)
    assert ended.code == exits.ARTIFACT_DAMAGED
    assert_reported(ended, "its manifest cannot be read")
    (store.path("compiled", ONE) / "manifest.json").unlink()
    assert_reported(artifacts(store, "show", ONE), "it has no manifest.json")


def test_whole_sets_are_reported_as_whole(store: Store) -> None:
    quick = artifacts(store, "verify")
    assert (quick.code, quick.err) == (0, "")
    assert re.fullmatch(r"2 sets, [0-9]+ bytes: as they were sealed\n", quick.out)
    full = artifacts(store, "verify", "--full", ONE)
    assert full.code == 0
    assert re.match(r"1 set, [0-9]+ bytes: as they were sealed; all bytes read in 0\.", full.out)


def test_damage_is_reported_and_quarantined_only_on_request(store: Store) -> None:
    (store.path("compiled", ONE) / "model.pt").write_text("grapf")
    assert artifacts(store, "verify").code == 0
    before = everything_below(store.root)
    ended = artifacts(store, "verify", "--full", "--quiet")
    assert ended.code == exits.ARTIFACT_DAMAGED
    assert ended.out.startswith(f"compiled {ONE}: the digest of model.pt is ")
    assert_reported(ended, "1 set is damaged in .*. Give --quarantine")
    assert everything_below(store.root) == before
    assert_reported(
        artifacts(store, "verify", "--full", "--quiet", "--quarantine"), "1 set is .* It was put into quarantine"
    )
    assert store.find("compiled", ONE) is None
    assert len(list((store.root / "quarantine").glob("*.reason.txt"))) == 1
    assert artifacts(store, "verify", "--full").code == 0


def test_a_set_of_a_newer_version_is_no_damage(store: Store) -> None:
    (store.path("compiled", ONE) / "manifest.json").write_text('{"format": 9}')
    ended = artifacts(store, "verify", "--quarantine")
    assert ended.code == 0
    assert "sealed by a newer version" in ended.sentence
    assert store.path("compiled", ONE).is_dir()


def test_a_collection_says_what_it_takes_and_a_dry_one_takes_nothing(store: Store) -> None:
    assert artifacts(store, "collect").out.startswith("0 bytes removed; ")
    before = everything_below(store.root)
    dry = artifacts(store, "collect", "--older-than", "0", "--dry-run")
    assert dry.out.startswith(f"compiled {TWO}: ")
    assert " would be removed, without a reference for " in dry.out
    assert everything_below(store.root) == before
    assert artifacts(store, "collect", "--older-than", "0", "--keep", TWO).out.startswith("0 bytes removed; ")
    taken = artifacts(store, "collect", "--older-than", "0")
    assert taken.code == 0
    assert taken.out.startswith(f"compiled {TWO}: ")
    assert [path.name for path in (store.root / "compiled").iterdir()] == [ONE]


def test_a_key_that_is_kept_may_be_short_and_has_to_be_there(store: Store) -> None:
    kept = artifacts(store, "collect", "--older-than", "0", "--keep", TWO[:5], "--keep", "9" * 32)
    assert (kept.code, kept.out[:16]) == (0, "0 bytes removed;")
    for text, message in (("9", "has the key '9'"), ("1", "begin with '1'. Give more"), ("", "Give more of the key")):
        ended = artifacts(store, "collect", "--older-than", "0", "--keep", text)
        assert ended.code == exits.USAGE
        assert_reported(ended, message)
    assert store.find("compiled", TWO)


@pytest.mark.parametrize(
    "owner", ["", "*", "ns.llama.*", "ns.llama.0a1?", "ns.llama.[0]a1b", "../../compiled", ".gone"]
)
def test_references_of_one_owner_are_removed_and_never_of_a_pattern(owner: str, store: Store) -> None:
    before = everything_below(store.root)
    ended = artifacts(store, "collect", "--older-than", "0", "--force-unref", OWNER, "--force-unref", owner)
    assert ended.code == exits.USAGE
    assert_reported(ended, "has to be one owner, namespace.name.uid")
    assert everything_below(store.root) == before


def test_references_are_removed_by_force(store: Store) -> None:
    dry = artifacts(store, "collect", "--older-than", "0", "--force-unref", OWNER, "--dry-run")
    assert dry.out.startswith(f"{OWNER} would no longer refer to {ONE}\n")
    assert f"compiled {ONE}: " in dry.out
    assert store.owners(ONE) == [OWNER]
    ended = artifacts(store, "collect", "--older-than", "0", "--force-unref", OWNER, "--force-unref", "ns.none.u")
    assert ended.out.startswith(f"{OWNER} no longer refers to {ONE}\nns.none.u refers to nothing\n")
    assert list((store.root / "compiled").iterdir()) == []


def test_room_that_cannot_be_made_is_reported_with_what_takes_it(store: Store) -> None:
    ended = artifacts(store, "collect", "--want", "900TB")
    assert ended.code == exits.NO_SPACE
    assert f"compiled {TWO}: " in ended.out
    assert_reported(ended, f"900,000,000,000,000 bytes are needed .* In use are compiled {ONE} with .* for {OWNER}")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        ended = here("artifacts", "list", "--store", folder)
        assert ended.code == exits.BAD_INPUT
        assert_reported(ended, "is no artifact store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="modes are for others than root")
def test_missing_permission_for_a_volume_is_reported(store: Store) -> None:
    store.root.chmod(0o700)
    stranger = ("setpriv", "--reuid=65531", "--regid=65531", "--clear-groups")
    ended = neuronmodel("artifacts", "list", "--store", store.root, prefix=stranger)
    assert ended.code == exits.TRANSIENT
    assert "cannot be reached: Permission denied. Run it as a user who may." in ended.err


@pytest.mark.skipif(os.geteuid() != 0, reason="modes are for others than root")
def test_a_reader_may_look_at_what_it_cannot_write(store: Store) -> None:
    begin_and_stop(store)
    reader = ("setpriv", "--reuid=65531", "--regid=65531", "--clear-groups")
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for above in (each for each in store.root.parents if each.stat().st_mode & 0o055 != 0o055):
        above.chmod(above.stat().st_mode | 0o055)
    ended = neuronmodel("artifacts", "list", "--store", store.root, prefix=reader)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == 4


def test_amounts_are_written_as_people_write_them() -> None:
    assert [age_of(text, "--x") for text in ("0", "90m", "12h", "7d", "2w", "1.5d")] == [
        0, 5400, 43200, 604800, 1209600, 129600,
    ]  # fmt: skip
    assert [bytes_of(text, "--x") for text in ("500", "2kB", "500GB", "2 tb", "1.5TiB")] == [
        500, 2000, 500 * 10**9, 2 * 10**12, 3 << 39,
    ]  # fmt: skip
    for text in ("", "7", "d", "-1d", "7x", "1e3d"):
        with pytest.raises(UsageInvalid, match="has to be an age"):
            age_of(text, "--older-than")
    for text in ("", "GB", "-1", "1XB", "5iB"):
        with pytest.raises(UsageInvalid, match="has to be an amount"):
            bytes_of(text, "--want")
    assert [shown_age(seconds) for seconds in (1, 119, 7200, 200_000)] == ["1 s", "119 s", "2 h", "2 d"]
