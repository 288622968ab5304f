"""`neuronmodel load`: every rank's tensors in memory, or a sentence before the machine runs out of it."""

import mmap
import re
from pathlib import Path

import pytest

from hack.bench.cases import COMMAND_OF_405B, LLAMA_405B
from hack.bench.checkpoints import write_headers
from neuronmodel_api import exits
from neuronmodel_worker.io import cgroups
from tests.unit.worker.commands.commands import Place, here, neuronmodel


def test_it_says_what_it_took(place: Place) -> None:
    ended = neuronmodel("load", *place.source, "--ranks", "1-2")
    assert ended.code == 0, ended.err
    allocated, loaded = ended.out.splitlines()
    assert re.fullmatch(r"allocated \d+\.\d kB for 2 ranks in \d+\.\d\d s", allocated)
    assert re.fullmatch(r"loaded \d+ kB into 2 ranks in .* s \(.*/s\); the disk was read from for .* s of them", loaded)
    assert ended.err == ""
    assert sorted(path.name for path in place.root.iterdir()) == ["model", "neuron.json"]


def test_more_than_the_memory_holds_is_refused_with_both_figures(tmp_path: Path) -> None:
    place = Place(tmp_path)
    write_headers(place.model, LLAMA_405B)
    place.configure(**COMMAND_OF_405B)
    ended = here("load", *place.source)
    assert ended.code == exits.TRANSIENT
    needed, available = (int(figure.replace(",", "")) for figure in re.findall(r"[\d,]{9,}", ended.sentence))
    assert needed > 871_400_000_000
    assert 0 < available < needed
    assert "--ranks" in ended.sentence


def test_a_control_groups_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.available_bytes() > 0
    group = tmp_path / Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text("50000\n")
    (group / "memory.stat").write_text("anon 20000\nfile 25000\nshmem 5000\n")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    assert cgroups.available_bytes() == 25000
    (group / "memory.max").write_text("max\n")
    assert cgroups.available_bytes() > 25000


def test_what_this_process_holds_grows_with_it() -> None:
    before = cgroups.anonymous_bytes()
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:  # not what was freed before
        held.write(b"x" * len(held))
        assert cgroups.anonymous_bytes() - before > 48 << 20
