"""`neuronmodel plan`: true figures from headers alone, and what the disks make of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from hack.bench.cases import COMMAND_OF_405B, LLAMA_405B
from hack.bench.checkpoints import write_headers
from neuronmodel_api import exits
from neuronmodel_worker.io import probe
from tests.unit.worker.commands.commands import Place, described, here, neuronmodel
from tests.unit.worker.conftest import Install

# What Python's buffered reading takes of a file beyond what it is asked for.
READ_AHEAD_BYTES = 16 << 10


def planned(place: Place, *more: object) -> dict[str, Any]:
    ended = here("plan", *place.source, "--json", *more)
    assert ended.code == 0, ended.err
    document: dict[str, Any] = json.loads(ended.out)
    return document


def test_what_is_planned_is_what_is_written(place: Place) -> None:
    document = planned(place, "--output", place.output, "--no-measure")
    assert not place.output.exists()
    place.sharded()
    written = described(place.weights)
    assert {Path(name).name for name in document["output"]["files"]} == set(written)
    for path in place.weights.iterdir():
        assert path.stat().st_size == document["output"]["bytes_a_rank"]
        found = {name: shape for name, (_, shape, _) in written[path.name].items()}
        assert found == {tensor["name"]: tensor["shape"] for tensor in document["tensors"]}
    assert document["output"]["bytes_written"] == 4 * document["output"]["bytes_a_rank"]
    assert document["output"]["fits"] is True


def test_the_document_says_where_everything_comes_from(place: Place) -> None:
    place.configure(tp_degree=4, fused_qkv=True, start_rank_id=1, local_ranks_size=2)
    document = planned(place, "--no-measure")
    assert (document["family"], document["dtype"], document["ranks"]) == ("llama", "BF16", [1, 2])
    by_name = {tensor["name"]: tensor for tensor in document["tensors"]}
    fused = by_name["layers.0.self_attn.qkv_proj.Wqkv.weight"]
    assert fused["bytes"] == 2 * fused["shape"][0] * fused["shape"][1]
    assert [each["name"].split(".")[-2] for each in fused["sources"]] == ["q_proj", "k_proj", "v_proj"]
    files = {file["name"] for file in document["source"]["files"]}
    assert {each["file"] for tensor in document["tensors"] for each in tensor["sources"]} == files
    assert by_name["rank_util.rank"]["sources"] == []
    assert document["measured"] == {"reading": None, "writing": None, "troubles": []}


def test_ranks_alone_read_less(place: Place) -> None:
    everything, one = planned(place, "--no-measure"), planned(place, "--no-measure", "--ranks", "3")
    assert one["ranks"] == [3]
    assert one["output"]["bytes_written"] * 4 == everything["output"]["bytes_written"]
    assert one["source"]["bytes_read"] < everything["source"]["bytes_read"]


def test_people_get_lines_and_a_table(place: Place) -> None:
    ended = here("plan", *place.source, "--no-measure", "--tensors")
    document = planned(place, "--no-measure")
    rows, _, table = ended.out.partition("\n\n")
    named = dict(line.split("  ", 1) for line in rows.splitlines())
    assert named["ranks"].strip() == "4: 0 to 3"
    assert f"({document['source']['bytes_read']:,})" in named["bytes read"]
    assert f"({document['output']['bytes_written']:,})" in named["bytes written"]
    assert "name one with --output" in named["target"]
    assert "time to load" not in named
    listed = [line.split()[0] for line in table.splitlines()]
    assert listed == ["TENSOR", *(tensor["name"] for tensor in document["tensors"])]


def test_the_vllm_of_the_environment_is_shown(place: Place, install: Install) -> None:
    assert planned(place, "--no-measure")["server"] is None
    assert "server" not in here("plan", *place.source, "--no-measure").out
    install("vllm", "0.16.0", "vllm")
    install("vllm-neuron", "0.5.0", "vllm_neuron")
    found = {"kind": "NxDInference", "version": "0.5.0", "vllmVersion": "0.16.0"}
    assert planned(place, "--no-measure")["server"] == found
    says = "server         this environment has vLLM 0.16.0 with its Neuron plugin 0.5.0, which runs NxD Inference\n"
    assert says in here("plan", *place.source, "--no-measure").out


def test_the_disks_are_measured_and_nothing_is_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK_BYTES", 64 << 10)
    place.output.mkdir()
    document = planned(place, "--output", place.output)
    assert document["measured"]["troubles"] == []
    for which in ("reading", "writing"):
        assert document["measured"][which]["bytes_per_second"] > 0
        assert document["measured"][which]["nbytes"] >= 64 << 10
    least, most = document["predicted"]["shard_seconds"]
    assert 0 < document["predicted"]["load_seconds"] <= least < most
    assert list(place.output.iterdir()) == []
    text = here("plan", *place.source, "--output", place.output).out
    assert "time to load" in text
    assert "time to shard" in text
    assert "predicted from these rates" in text


def test_what_cannot_be_measured_is_reported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.fsync", fail)
    document = planned(place, "--output", place.root / "a" / "b")
    assert document["measured"]["troubles"] == [
        "reading was not measured: too few bytes to say anything",
        "writing could not be measured: Permission denied",
    ]


def test_what_shard_would_refuse_is_refused(place: Place) -> None:
    ended = here("plan", *place.source, "--output", place.model / "shards")
    assert ended.code == exits.BAD_INPUT
    assert "neuronmodel plan: " in ended.sentence


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, int]:
    """Llama 3.1 405B's headers, and how many bytes they are."""
    place = Place(tmp_path_factory.mktemp("big"))
    write_headers(place.model, LLAMA_405B)
    place.configure(**COMMAND_OF_405B)
    return place, sum(path.stat().st_size for path in place.model.iterdir()) - LLAMA_405B.nbytes


def bytes_read_so_far() -> int:
    """By this process, from wherever."""
    lines = (line.split() for line in Path("/proc/self/io").read_text().splitlines())
    return next(int(count) for name, count in lines if name == "rchar:")


def test_of_a_405b_checkpoint_nothing_but_headers_is_read(big: tuple[Place, int], place: Place) -> None:
    planned(place, "--no-measure")  # whatever is imported is imported now
    before = bytes_read_so_far()
    document = planned(big[0], "--no-measure")
    num_files = len(document["source"]["files"])
    assert bytes_read_so_far() - before < big[1] + (num_files + 10) * READ_AHEAD_BYTES
    assert document["source"]["bytes_read"] == 811_706_777_600
    assert num_files > 150
    assert len(document["ranks"]) == 64
    assert len(document["tensors"]) == 126 * 8 + 4


def test_a_405b_checkpoint_as_a_process(big: tuple[Place, int]) -> None:
    ended = neuronmodel("plan", *big[0].source, "--no-measure", "--output", big[0].output)
    assert ended.code == 0, ended.err
    assert "812 GB (811,706,777,600)" in ended.out
    assert "the shards" in ended.out
    assert not big[0].output.exists()


def rows(place: Place, *more: object) -> dict[str, str]:
    ended = here("plan", *place.source, "--no-measure", *more)
    assert ended.code == 0, ended.err
    return {line[:15].strip(): line[15:] for line in ended.out.splitlines()}


def test_a_405b_model_fits_a_trn2_by_its_command(big: tuple[Place, int]) -> None:
    shown = rows(big[0])
    assert "(811,706,777,600)" in shown["bytes read"]
    assert "871 GB (871,4" in shown["bytes written"]
    assert shown["machine"] == (
        "trn2.48xlarge: 16 x 8 physical cores, 2 to a logical one, 2.20 TB (2,048 GiB) of memory, 7.60 TB of NVMe"
    )
    assert shown["logical cores"] == "64 needed of 64: fits"
    assert "weights 13.6 GB, key/value cache 132 MB" in shown["device memory"]
    assert shown["device memory"].endswith("of 25.8 GB (24 GiB): fits")
    assert shown["host memory"].count("885 GB") == 2
    assert "not fit" not in "".join(shown.values())


def test_a_405b_model_at_one_core_a_rank(big: tuple[Place, int], place: Place) -> None:
    alike = Place(place.root / "another")
    alike.root.mkdir()
    alike.model.symlink_to(big[0].model)
    alike.configure(**COMMAND_OF_405B, logical_nc_config=1)
    shown = rows(alike)
    assert shown["logical cores"] == "64 needed of 128: fits"
    assert shown["device memory"].endswith("of 12.9 GB (12 GiB): does not fit")
    alike.configure(**{**COMMAND_OF_405B, "logical_nc_config": 1, "tp_degree": 128, "local_ranks_size": 128})
    shown = rows(alike)
    assert shown["logical cores"] == "128 needed of 128: fits"
    assert shown["device memory"].startswith("9.18 GB a core (weights 7.34 GB")
    assert shown["device memory"].endswith("of 12.9 GB (12 GiB): fits")


def test_a_405b_model_on_other_machines(big: tuple[Place, int]) -> None:
    small = rows(big[0], "--instance-type", "trn2.3xlarge")
    assert small["logical cores"] == "64 needed of 4: does not fit"
    assert "memory not known, NVMe not known" in small["machine"]
    assert small["host memory"].endswith("how much the machine has is not known")
    unknown = rows(big[0], "--instance-type", "trn9.large")
    assert unknown["machine"].startswith("trn9.large: not known, so there are no verdicts")
    assert "fit" not in unknown["logical cores"] + unknown["device memory"] + unknown["host memory"]
    first = rows(big[0], "--instance-type", "trn1.32xlarge")
    assert first["host memory"].count("does not fit") == 2


def test_a_logical_core_that_a_machine_does_not_make(place: Place) -> None:
    place.configure(tp_degree=4, logical_nc_config=2)
    shown = rows(place, "--instance-type", "trn1.32xlarge")
    assert shown["logical cores"].endswith("the machine makes none of so many: does not fit")


def test_the_document_has_the_same_of_the_machine(big: tuple[Place, int]) -> None:
    machine = planned(big[0], "--no-measure", "--instance-type", "trn2.3xlarge")["machine"]
    assert (machine["known"], machine["logical_cores"], machine["memory_bytes"]) == (True, 4, None)
    for strategy in ("ShardOnCompile", "ShardOnLoad"):
        start = machine["starts"][strategy]
        assert (start["fits"], start["core_bytes"], start["cache_bytes"]) == (False, 24 << 30, 132_120_576)
        assert len(start["misfits"]) == 1
    unknown = planned(big[0], "--no-measure", "--instance-type", "trn9.large")["machine"]
    assert (unknown["known"], unknown["starts"]["ShardOnLoad"]["fits"]) == (False, None)


def test_batch_and_length_come_from_the_fields(place: Place) -> None:
    place.configure(tp_degree=4, batch_size=1, seq_len=128)
    before = planned(place, "--no-measure")["machine"]["starts"]["ShardOnLoad"]["cache_bytes"]
    place.configure(tp_degree=4, batch_size=4, seq_len=1024)
    after = planned(place, "--no-measure")["machine"]["starts"]["ShardOnLoad"]["cache_bytes"]
    assert after == 32 * before
