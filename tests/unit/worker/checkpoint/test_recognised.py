"""What is no checkpoint is recognised as what it is: each case is files in a folder, and words of the refusal."""

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuronmodel_api import exits
from neuronmodel_worker.checkpoint import (
    Checkpoint,
    identify_content,
    open_checkpoint,
    read_generation_config,
    refuse_wrong_content,
)
from neuronmodel_worker.checkpoint.file_signatures import HEAD_BYTES
from neuronmodel_worker.checkpoint.quantization import one_of_each_ending, quantization_of
from neuronmodel_worker.failures import (
    BadInput,
    CheckpointFileMissing,
    CheckpointQuantized,
    ConfigInvalid,
    LinkBroken,
    NotACheckpoint,
    SourceNotFound,
)
from neuronmodel_worker.plan.native import NativePlan, make_native_plan
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.sources import Folder
from tests.safetensors_bytes import safetensors_bytes
from tests.unit.worker.sharding import small_source

Change = Callable[[Path], Any]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00003.safetensors"
TENSOR = ("BF16", np.zeros((2, 2), np.uint16))


def plan_of(folder: Path, **flags: Any) -> StreamedPlan:
    return make_plan(open_checkpoint(folder), {"tp_degree": 2, **flags})


def refusal(folder: Path) -> BadInput:
    with pytest.raises(BadInput) as refused:
        plan_of(folder)
    sentence = str(refused.value)
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert len(sentence) < 1000, sentence
    assert refused.value.exit_code == exits.BAD_INPUT
    return refused.value


def assert_refused(folder: Path, reason: str, *fragments: str) -> None:
    found = refusal(folder)
    assert found.reason == reason, found
    assert [each for each in (str(folder), *fragments) if each not in str(found)] == [], found


def write(name: str, content: bytes | str) -> Change:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def configure(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        settings = {**json.loads(file.read_text()), **fields}
        file.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))

    return change


def instead(*names: str, without: str = WEIGHTS) -> Change:
    """Files of those names in place of `without`."""

    def change(folder: Path) -> None:
        (folder / without).unlink()
        for name in names:
            (folder / name).write_bytes(b"\x08\x07")

    return change


def every(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def tensors_of(folder: Path) -> Mapping[str, Any]:
    return {
        name: ("BF16", np.zeros(tensor.shape, np.uint16)) for name, tensor in open_checkpoint(folder).tensors.items()
    }


def renamed(rename: Callable[[str], str | None]) -> Change:
    """The checkpoint's tensors under other names; None leaves one out."""

    def change(folder: Path) -> None:
        tensors = {new: tensor for name, tensor in tensors_of(folder).items() if (new := rename(name))}
        (folder / WEIGHTS).write_bytes(safetensors_bytes(tensors))

    return change


def without(*endings: str) -> Change:
    return renamed(lambda name: None if name.endswith(endings) else name)


def and_tensors(*names: str) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(safetensors_bytes({**tensors_of(folder), **dict.fromkeys(names, TENSOR)}))

    return change


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x" * 20)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("./"))
    return buffer.getvalue()


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0a" * 32 + "\nsize 4976698672\n"
STAND_INS: dict[str, tuple[bytes, str, str]] = {
    "git_lfs": (LFS.encode(), "git-lfs pointer", "4,976,698,672 bytes"),
    "git_lfs_of_windows": (b"\xef\xbb\xbf" + LFS.replace("\n", "\r\n").encode(), "git-lfs pointer", "git lfs pull"),
    "git_lfs_in_its_first_days": (LFS.replace("git-lfs", "hawser").encode(), "git-lfs pointer", "git lfs pull"),
    "git_lfs_that_was_cut": (LFS.encode()[:60], "git-lfs pointer", "git lfs pull"),
    "xet": (b"# xet version 0\nfilesize = 498\nhash = '0a0a'\n", "git-xet", "hf download"),
    "git_annex": (b"/annex/objects/SHA256E-s49--0a0a.safetensors\n", "git-annex", "git annex get"),
    "git_annex_of_a_link": (
        b"../.git/annex/objects/ab/cd/SHA256E-s49--0a0a/SHA256E-s49--0a0a",
        "git-annex",
        "git annex",
    ),
    "dvc": (b"outs:\n- md5: " + b"0a" * 16 + b"\n  size: 49\n  path: model.safetensors\n", "DVC", "dvc pull"),
    "text_of_a_link": (b"../../blobs/" + b"0a" * 32, "text ../../blobs/0a0a", "cp -rL"),
    "text_of_a_link_with_a_line_end": (b"/models/llama/a.file\n", "text /models/llama/a.file", "cp -rL"),
    "html": (
        b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title>",
        "web page in HTML (404 Not Found)",
        "itself",
    ),
    "html_after_space": (b"\n\n  <HTML><body>Sign in", "web page in HTML", "login"),
    "html_after_a_comment": (b"<!-- a -->\n<html class='x'>", "web page in HTML", "login"),
    "html_in_utf_16": ("\ufeff<!doctype HTML>".encode("utf-16-le"), "web page in HTML", "login"),
    "xml": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>The</Message></Error>',
        "XML document",
        "NoSuchKey",
    ),
    "xml_without_its_head": (b"\xef\xbb\xbf<Error><Code>AccessDenied</Code>", "XML document", "AccessDenied"),
    "answer": (b"Entry not found", "answer of a server that failed: Entry not found", "Download it again"),
    "answer_of_json": (b'{"error": "Repository not found"}', "server that failed: Repository not found", "again"),
    "answer_of_json_with_more": (b'{"statusCode":403,"message":"Forbidden"}', "server that failed: Forbidden", "again"),
    "answer_of_a_gate": (b"Access to model meta-llama/Llama-3 is restricted. You must", "Access to model", "again"),
    "gzip": (gzip.compress(b"{}" * 50, mtime=0), "compressed with gzip", "Unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58" + b"\0" * 20, "compressed with zstd", "Unpack"),
    "zip": (zipped("config.json"), "a zip archive", "Unpack"),
    "torch": (zipped("archive/data.pkl", "archive/version"), "PyTorch's torch.save", "save_pretrained"),
    "pickle": (pickle.dumps({"a": [1.0] * 20}, protocol=2), "a pickle", "save_pretrained"),
    "pickle_of_today": (pickle.dumps({"a": [1.0] * 20}), "a pickle", "save_pretrained"),
    "tar": (tarred(), "a tar archive", "Unpack"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\x01" + b"\0" * 30, "a GGUF file", "safetensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 8, "an HDF5 file", "safetensors"),
    "zeros": (b"\0" * 5000, "filled with zeros", "Delete it"),
}
FILES = ["config.json", INDEX, SECOND]


@pytest.mark.parametrize("file", [*FILES, WEIGHTS])
@pytest.mark.parametrize(("content", "fragment", "more"), STAND_INS.values(), ids=STAND_INS.keys())
def test_what_stands_in_for_a_file_is_recognised(
    content: bytes, fragment: str, more: str, file: str, tmp_path: Path
) -> None:
    small_source(tmp_path, files=1 if file == WEIGHTS else 3)
    (tmp_path / file).write_bytes(content)
    assert_refused(tmp_path, "NotACheckpoint", str(tmp_path / file), fragment, more)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "chat_template.jinja", "generation_config.json"])
@pytest.mark.parametrize(("content", "fragment", "more"), STAND_INS.values(), ids=STAND_INS.keys())
def test_what_stands_in_for_a_small_file_is_refused(
    content: bytes, fragment: str, more: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(NotACheckpoint, match="is ") as refused:
        refuse_wrong_content(Folder(tmp_path), file)
    assert str(tmp_path / file) in str(refused.value)
    assert fragment in str(refused.value)
    assert more in str(refused.value)


RIGHT: dict[str, bytes] = {
    "json": b'\xef\xbb\xbf {"model_type": "llama", "error": 1}',
    "json_that_is_long": json.dumps({"message": "x" * HEAD_BYTES}).encode(),
    "template": b"<s>{% for message in messages %}<|im_start|>{{ message.role }}",
    "template_of_llama": b"{{- bos_token }}\n<html>",
    "template_of_words": b"{# a comment #}\n../a b",
    "sentencepiece": b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02",
    "safetensors": safetensors_bytes({"a": TENSOR}),
    "nothing": b"",
}


def test_any_text_in_place_of_weights_is_reported_as_text(tmp_path: Path) -> None:
    small_source(tmp_path)
    (tmp_path / WEIGHTS).write_text('{"metadata": {}, "weight_map": {}}')
    assert_refused(tmp_path, "NotACheckpoint", "is text and no safetensors file", "metadata")


def test_json_in_utf_16_is_recognised(tmp_path: Path) -> None:
    small_source(tmp_path)
    (tmp_path / "config.json").write_bytes('\ufeff{"model_type": "llama"}'.encode("utf-16-le"))
    assert_refused(tmp_path, "ConfigInvalid", "UTF-16")


@pytest.mark.parametrize("content", RIGHT.values(), ids=RIGHT.keys())
def test_what_is_right_is_not_recognised_as_something_else(content: bytes) -> None:
    assert identify_content(content[:HEAD_BYTES]) is None


@pytest.mark.parametrize("length", [0x8B1F, 0x7D0280, 0x2F2E, 640])
def test_a_header_that_was_cut_is_no_other_format_for_its_length(length: int) -> None:
    assert identify_content(length.to_bytes(8, "little") + b'{"a":{"dtype":') is None


def test_an_empty_file_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    refuse_wrong_content(Folder(tmp_path), "absent")
    (tmp_path / "empty").write_bytes(b" \n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    refuse_wrong_content(Folder(tmp_path), "empty", may_be_empty=True)
    for name, fragment in (("empty", "is empty"), ("folder", "is a directory"), ("pipe", "a pipe")):
        with pytest.raises(NotACheckpoint, match=fragment):
            refuse_wrong_content(Folder(tmp_path), name)


def test_what_a_page_says_of_itself_is_shown_on_a_line(tmp_path: Path) -> None:
    small_source(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"<html><title>\x1b[2J\xe2\x80\xae two\nlines</title>")
    assert_refused(tmp_path, "NotACheckpoint", "web page")


@pytest.mark.parametrize("target", ["../../blobs/0a0a", "/nowhere/file", "config.json/inside", "LOOP"])
@pytest.mark.parametrize("file", [*FILES, WEIGHTS])
def test_a_link_that_leads_nowhere_is_named_with_its_target(file: str, target: str, tmp_path: Path) -> None:
    small_source(tmp_path, files=1 if file == WEIGHTS else 3)
    target = file if target == "LOOP" else target
    (tmp_path / file).unlink()
    (tmp_path / file).symlink_to(target)
    assert_refused(tmp_path, "CheckpointFileMissing", f"{tmp_path / file} is a symbolic link to {target}", "models--")
    with pytest.raises(LinkBroken, match="a symbolic link to"):
        refuse_wrong_content(Folder(tmp_path), file)


def test_a_snapshot_without_its_blobs_and_a_folder_that_is_a_dangling_link_are_reported(tmp_path: Path) -> None:
    snapshot = small_source(tmp_path / "snapshots" / "abc")
    for name in ("config.json", WEIGHTS):
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert_refused(snapshot, "CheckpointFileMissing", "../../blobs/config.json", "there is nothing")
    (tmp_path / "model").symlink_to("../moved")
    with pytest.raises(SourceNotFound, match=r"model, which is a symbolic link to \.\./moved"):
        open_checkpoint(tmp_path / "model")


METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, "AWQ (4 bits)"),
    "gptq": ({"quant_method": "gptq", "bits": 8}, "GPTQ (8 bits)"),
    "gptq_of_old": ({"bits": 4, "group_size": 128, "desc_act": False, "damp_percent": 0.01}, "GPTQ (4 bits)"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes (4 bits)"),
    "bitsandbytes_of_old": ({"load_in_8bit": True}, "bitsandbytes (8 bits)"),
    "bitsandbytes_4bit": ({"quant_method": "bitsandbytes_4bit"}, "bitsandbytes"),
    "compressed_tensors": ({"quant_method": "compressed-tensors", "config_groups": {"a": {}}}, "compressed-tensors"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "FBGEMM FP8"),
    "mxfp4": ({"quant_method": "mxfp4"}, "MXFP4"),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "ModelOpt"),
    "mlx": ({"group_size": 64, "bits": 4}, "MLX (4 bits)"),
    "unknown": ({"quant_method": "tomorrow's"}, "tomorrow's"),
    "unnamed": ({"scheme": 7}, "an unnamed method"),
    "not_printable": ({"quant_method": "a\nb"}, "'a\\nb'"),
    **{
        name: ({"quant_method": name}, fragment)
        for name, fragment in (
            ("hqq", "HQQ"), ("aqlm", "AQLM"), ("eetq", "EETQ"), ("quanto", "quanto"), ("torchao", "torchao"),
            ("vptq", "VPTQ"), ("spqr", "SpQR"), ("higgs", "HIGGS"), ("quark", "Quark"), ("bitnet", "BitNet"),
            ("auto-round", "AutoRound"), ("exl2", "EXL2"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("settings", "name"), METHODS.values(), ids=METHODS.keys())
def test_a_quantized_checkpoint_is_recognised_by_its_method(
    settings: dict[str, Any], name: str, tmp_path: Path
) -> None:
    configure(quantization_config=settings)(small_source(tmp_path))
    assert_refused(tmp_path, "CheckpointQuantized", f" {name}, as quantization_config", "dequantize")


NOT_QUANTIZED: dict[str, dict[str, Any]] = {
    "null": {"quantization_config": None},
    "empty": {"quantization_config": {}},
    "switched_off": {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}
    },
    "cache_alone": {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {},
            "kv_cache_scheme": {"num_bits": 8},
        }
    },
    "dense": {"compression_config": {"sparsity_config": {"format": "dense"}}},
    "cache_of_modelopt": {"quantization_config": {"quant_method": "modelopt", "quant_algo": None}},
}


@pytest.mark.parametrize("fields", NOT_QUANTIZED.values(), ids=NOT_QUANTIZED.keys())
def test_settings_that_quantize_no_weight_are_no_matter(fields: dict[str, Any], tmp_path: Path) -> None:
    configure(**fields)(small_source(tmp_path))
    assert plan_of(tmp_path)


QUANTIZED_BY_CONTENT: dict[str, tuple[Change, str]] = {
    "compression_config": (
        configure(compression_config={"config_groups": {"a": {}}, "quant_method": "compressed-tensors"}),
        "compressed-tensors, as compression_config",
    ),
    "sparse": (configure(compression_config={"sparsity_config": {"format": "sparse-bitmask"}}), "compressed-tensors"),
    "mlx": (configure(quantization={"group_size": 64, "bits": 4}), "MLX (4 bits), as quantization in"),
    "gptq": (
        write("quantize_config.json", '{"bits": 4, "group_size": 128}'),
        "GPTQ (4 bits), as the file quantize_config.json",
    ),
    "awq": (
        write("quant_config.json", '{"w_bit": 4, "q_group_size": 128}'),
        "AWQ (4 bits), as the file quant_config.json",
    ),
    "modelopt": (
        write("hf_quant_config.json", '{"producer": {}, "quantization": {"quant_algo": "FP8"}}'),
        "ModelOpt (FP8), as the file hf_quant_config.json",
    ),
    "garbled": (write("quantize_config.json", "{"), "GPTQ, as the file quantize_config.json"),
    **{
        name: (
            and_tensors(*(f"model.layers.0.{each}" for each in tensors)),
            f"{fragment}, as its tensor model.layers.0.",
        )
        for name, tensors, fragment in (
            ("awq_by_tensors", ["mlp.up_proj.qweight", "mlp.up_proj.qzeros", "mlp.up_proj.scales"], "AWQ"),
            ("gptq_by_tensors", ["mlp.up_proj.qweight", "mlp.up_proj.g_idx"], "GPTQ"),
            ("fp8_by_tensors", ["mlp.up_proj.weight_scale_inv"], "FP8"),
            ("scaled_by_tensors", ["mlp.up_proj.weight_scale", "mlp.up_proj.input_scale"], "FP8 or INT8"),
            ("mxfp4_by_tensors", ["mlp.experts.down_proj_blocks", "mlp.experts.down_proj_scales"], "MXFP4"),
            ("bnb_8_by_tensors", ["mlp.up_proj.SCB"], "bitsandbytes"),
            ("bnb_4_by_tensors", ["mlp.up_proj.weight.quant_state.bitsandbytes__nf4"], "bitsandbytes"),
            ("packed_by_tensors", ["mlp.up_proj.weight_packed", "mlp.up_proj.weight_scale"], "compressed-tensors"),
            ("mlx_by_tensors", ["mlp.up_proj.scales", "mlp.up_proj.biases"], "MLX"),
            ("hqq_by_tensors", ["mlp.up_proj.W_q"], "HQQ"),
            ("quanto_by_tensors", ["mlp.up_proj.weight._data"], "quanto"),
            ("unnamed_by_tensors", ["mlp.up_proj.scales"], "an unnamed method"),
        )
    },
}


@pytest.mark.parametrize(("change", "fragment"), QUANTIZED_BY_CONTENT.values(), ids=QUANTIZED_BY_CONTENT.keys())
def test_a_quantized_checkpoint_is_recognised_by_what_is_next_to_its_weights(
    change: Change, fragment: str, tmp_path: Path
) -> None:
    change(small_source(tmp_path))
    assert_refused(tmp_path, "CheckpointQuantized", fragment)


def test_scales_of_a_cache_and_of_modelopt_without_an_algorithm_are_no_matter(tmp_path: Path) -> None:
    and_tensors("model.layers.0.self_attn.k_proj.k_scale", "model.layers.0.self_attn.attn.v_scale")(
        small_source(tmp_path)
    )
    write("hf_quant_config.json", '{"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}}')(tmp_path)
    assert plan_of(tmp_path)


def native_plan(folder: Path, **flags: Any) -> NativePlan:
    return make_native_plan(open_checkpoint(folder), {"tp_degree": 2, **flags})


def test_what_nxd_inference_quantizes_itself_goes_on(tmp_path: Path) -> None:
    configure(quantization_config={"quant_method": "fp8"})(small_source(tmp_path))
    for name in ("quantized", "quantized_mlp_kernel_enabled"):
        assert native_plan(tmp_path, **{name: True})
    with pytest.raises(CheckpointQuantized, match="FP8"):
        native_plan(tmp_path)


def test_a_model_without_a_layout_may_be_quantized_as_nxd_inference_reads_it(tmp_path: Path) -> None:
    configure(model_type="gpt_oss", quantization_config={"quant_method": "mxfp4"})(small_source(tmp_path))
    assert native_plan(tmp_path)
    assert_refused(tmp_path, "CheckpointQuantized", "MXFP4", "spec.sharding.weights: Native")
    configure(quantization_config={"quant_method": "gptq"})(tmp_path)
    with pytest.raises(CheckpointQuantized, match="GPTQ"):
        native_plan(tmp_path)


ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"})
no_config: Change = lambda folder: (folder / "config.json").unlink()  # noqa: E731

OTHERS: dict[str, tuple[Change, str, tuple[str, ...]]] = {
    "adapter": (
        every(instead("adapter_model.safetensors"), no_config, write("adapter_config.json", ADAPTER)),
        "NotACheckpoint",
        ("an adapter", "adapter_config.json", "Its base model is meta-llama/Llama-3.1-8B.", "merge_and_unload"),
    ),
    "adapter_with_a_config": (
        every(instead("adapter_model.bin"), write("adapter_config.json", ADAPTER)),
        "NotACheckpoint",
        ("an adapter", "meta-llama/Llama-3.1-8B", "merge_and_unload"),
    ),
    "adapter_of_a_name_that_cannot_be_shown": (
        every(
            instead("adapter_model.safetensors"),
            write("adapter_config.json", json.dumps({"base_model_name_or_path": "a\n" * 999})),
        ),
        "NotACheckpoint",
        ("an adapter", "'a\\na\\n"),
    ),
    "adapter_of_garbled_settings": (
        every(instead("adapter_model.safetensors"), write("adapter_config.json", "{")),
        "NotACheckpoint",
        ("an adapter",),
    ),
    "adapter_that_was_not_merged": (
        and_tensors("model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        "NotACheckpoint",
        ("lora_A", "merge_and_unload"),
    ),
    "settings_of_an_adapter_as_config": (
        write("config.json", ADAPTER),
        "NotACheckpoint",
        ("config.json is an adapter's", "merge_and_unload"),
    ),
    "gguf": (instead("model-q4_k_m.gguf"), "NotACheckpoint", ("weights in GGUF", "model-q4_k_m.gguf", "safetensors")),
    "gguf_alone": (
        every(instead("a.gguf", "b.gguf"), no_config),
        "NotACheckpoint",
        ("holds no config.json", "a.gguf, b.gguf"),
    ),
    "gguf_without_a_name": (
        every(instead(), write("blob", b"GGUF\3\0\0\0")),
        "NotACheckpoint",
        ("blob", "a GGUF file"),
    ),
    "bin": (
        instead("pytorch_model.bin", "training_args.bin"),
        "NotACheckpoint",
        ("PyTorch's own format (pytorch_model.bin)", "safe_serialization=True"),
    ),
    "bins": (
        instead(*(f"pytorch_model-0000{i}-of-00004.bin" for i in range(1, 5)), "pytorch_model.bin.index.json"),
        "NotACheckpoint",
        ("pytorch_model-00001-of-00004.bin", "and 1 more"),
    ),
    "pth": (
        instead("consolidated.00.pth", "params.json"),
        "NotACheckpoint",
        ("Meta's or Mistral's own format", "consolidated.00.pth, params.json"),
    ),
    "pth_alone": (
        every(instead("consolidated.00.pth", "params.json"), no_config),
        "NotACheckpoint",
        ("holds no config.json", "params.json"),
    ),
    "pt": (instead("weights.pt"), "NotACheckpoint", ("weights.pt", "PyTorch")),
    "ckpt": (instead("last.ckpt"), "NotACheckpoint", ("last.ckpt", "PyTorch")),
    "tensorflow": (instead("tf_model.h5"), "NotACheckpoint", ("TensorFlow", "save_pretrained")),
    "flax": (instead("flax_model.msgpack"), "NotACheckpoint", ("Flax", "flax_model.msgpack")),
    "onnx": (instead("model.onnx"), "NotACheckpoint", ("ONNX", "model.onnx")),
    "numpy": (instead("weights.npz"), "NotACheckpoint", ("weights.npz",)),
    "packed": (instead("model.tar.gz"), "NotACheckpoint", ("an archive", "model.tar.gz")),
    "in_parts": (
        instead("model.safetensors.partaa", "model.safetensors.partab"),
        "NotACheckpoint",
        ("in parts", "cat"),
    ),
    "consolidated": (
        instead("consolidated.safetensors", "params.json"),
        "NotACheckpoint",
        ("Mistral's own format", "consolidated.safetensors, params.json"),
    ),
    "deepspeed": (instead("zero_to_fp32.py"), "NotACheckpoint", ("DeepSpeed", "zero_to_fp32.py")),
    "pipeline": (every(no_config, write("model_index.json", "{}")), "NotACheckpoint", ("diffusers",)),
    "cache": (
        every(
            no_config, *(lambda folder, name=name: (folder / name).mkdir() for name in ("blobs", "refs", "snapshots"))
        ),
        "NotACheckpoint",
        ("Hugging Face cache", "snapshots/"),
    ),
    "one_of_one": (
        instead("model-00001-of-00001.safetensors"),
        "CheckpointFileMissing",
        ("model-00001-of-00001.safetensors", "Rename it to model.safetensors"),
    ),
    "shards_without_index": (
        instead("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"),
        "CheckpointFileMissing",
        ("2 of the 3 files", "model-00002-of-00003.safetensors", INDEX),
    ),
    "all_shards_without_index": (
        instead(*(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))),
        "CheckpointFileMissing",
        ("2 of the 2 files", INDEX),
    ),
    "many_shards_without_index": (
        instead("model-00001-of-00191.safetensors"),
        "CheckpointFileMissing",
        ("1 of the 191 files", "and 187 more"),
    ),
    "another_name": (instead("weights.safetensors"), "CheckpointFileMissing", ("weights.safetensors", "Rename")),
    "another_name_of_a_quantizer": (
        every(instead("gptq_model-4bit.safetensors"), write("quantize_config.json", '{"bits": 4}')),
        "CheckpointQuantized",
        ("GPTQ (4 bits)",),
    ),
    "unfinished": (
        instead("model.safetensors.incomplete"),
        "CheckpointFileMissing",
        ("not finished", "model.safetensors.incomplete"),
    ),
    "unfinished_part": (
        instead("model.safetensors.part"),
        "CheckpointFileMissing",
        ("not finished", "model.safetensors.part"),
    ),
    "unfinished_of_aria2": (
        write("model.safetensors.aria2", b"\0\1"),
        "CheckpointFileMissing",
        ("not downloaded whole", "model.safetensors.aria2"),
    ),
    "multimodal": (
        configure(hidden_size=..., num_hidden_layers=..., model_type="llava", text_config={"hidden_size": 64}),
        "UnknownModelType",
        ("under text_config", "multimodal", "llava", "Native"),
    ),
    "multimodal_by_a_type_of_ours": (
        configure(hidden_size=..., llm_config={"hidden_size": 64}),
        "UnknownModelType",
        ("under llm_config", "multimodal"),
    ),
    "multimodal_without_a_type": (
        configure(model_type=..., hidden_size=..., thinker_config={"text_config": {}}),
        "UnknownModelType",
        ("under thinker_config",),
    ),
    "multimodal_with_sizes": (
        configure(text_config={"hidden_size": 64}, vision_config={"depth": 2}),
        "UnknownModelType",
        ("multimodal",),
    ),
}


@pytest.mark.parametrize(("change", "reason", "fragments"), OTHERS.values(), ids=OTHERS.keys())
def test_something_other_than_a_checkpoint_is_recognised(
    change: Change, reason: str, fragments: tuple[str, ...], tmp_path: Path
) -> None:
    change(small_source(tmp_path))
    assert_refused(tmp_path, reason, *fragments)


def test_an_unfinished_download_from_the_hub_is_recognised(tmp_path: Path) -> None:
    instead()(small_source(tmp_path))
    below = tmp_path / ".cache" / "huggingface" / "download"
    below.mkdir(parents=True)
    (below / "abc.0a0a.incomplete").write_bytes(b"x")
    assert_refused(tmp_path, "CheckpointFileMissing", "not finished", "abc.0a0a.incomplete")


def prefixed(prefix: str) -> Change:
    return renamed(lambda name: f"{prefix}{name}")


def replaced(old: str, new: str) -> Change:
    return renamed(lambda name: name.replace(old, new))


NAMES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "compiled": (prefixed("_orig_mod."), ("_orig_mod.model.layers.0", "torch.compile")),
    "ddp": (prefixed("module."), ("module.model.layers.0", "DistributedDataParallel")),
    "fsdp": (replaced(".self_attn.", "._fsdp_wrapped_module.self_attn."), ("_fsdp_wrapped_module", "FSDP")),
    "checkpointed": (replaced(".self_attn.", "._checkpoint_wrapped_module.self_attn."), ("activation checkpointing",)),
    "compiled_ddp": (prefixed("module._orig_mod."), ("torch.compile and DistributedDataParallel",)),
    "peft": (prefixed("base_model.model."), ("base_model.model.model.", "PEFT", "merge_and_unload")),
    "multimodal": (prefixed("language_model."), ("language_model.model.", "multimodal", "language model alone")),
    "multimodal_of_today": (replaced("model.", "model.language_model."), ("model.language_model.", "multimodal")),
    "text_model": (prefixed("text_model."), ("text_model.model.", "multimodal")),
    "transformer": (replaced("model.", "transformer."), ("transformer.", "another architecture")),
    "nested": (prefixed("model."), ("model.model.", "a model within another")),
    "another_prefix": (prefixed("x\n."), ("'x\\n.model.",)),
    "fused": (
        renamed(
            lambda name: name.replace("q_proj", "qkv_proj") if "k_proj" not in name and "v_proj" not in name else None
        ),
        ("qkv_proj.weight", "several of the model's tensors as one"),
    ),
    "gpt2": (
        lambda folder: (folder / WEIGHTS).write_bytes(
            safetensors_bytes({"h.0.attn.c_attn.weight": TENSOR, "wte.weight": TENSOR})
        ),
        ("h.0.attn.c_attn.weight, wte.weight", "GPT-2"),
    ),
    "meta": (
        lambda folder: (folder / WEIGHTS).write_bytes(
            safetensors_bytes({f"layers.{i}.attention.wq.weight": TENSOR for i in range(9)})
        ),
        ("layers.0.attention.wq.weight", "and 5 more", "Meta's and Mistral's"),
    ),
    "strange": (
        lambda folder: (folder / WEIGHTS).write_bytes(safetensors_bytes({"\x1b[2J" * 99: TENSOR})),
        ("named otherwise",),
    ),
    "none": (lambda folder: (folder / WEIGHTS).write_bytes(safetensors_bytes({})), ("holds no tensors",)),
    "no_head": (
        without("lm_head.weight"),
        ("lm_head.weight", "says tie_word_embeddings: false", "set tie_word_embeddings to true"),
    ),
    "no_head_by_default": (
        every(without("lm_head.weight"), configure(tie_word_embeddings=...)),
        ("does not say tie_word_embeddings: true",),
    ),
    "no_embeddings": (without("embed_tokens.weight"), ("embed_tokens.weight", "It has lm_head.weight")),
    "one_is_missing": (without("layers.1.mlp.up_proj.weight"), ("layers.1.mlp.up_proj.weight", "download is complete")),
}


@pytest.mark.parametrize(("change", "fragments"), NAMES.values(), ids=NAMES.keys())
def test_what_the_tensors_are_called_instead_is_reported(
    change: Change, fragments: tuple[str, ...], tmp_path: Path
) -> None:
    change(small_source(tmp_path))
    assert_refused(tmp_path, "TensorMissing", *fragments)


def test_names_come_before_sizes_that_were_assumed(tmp_path: Path) -> None:
    every(prefixed("module."), configure(num_hidden_layers=...))(small_source(tmp_path))
    assert_refused(tmp_path, "TensorMissing", "DistributedDataParallel")


def indexed(folder: Path, change: Callable[[dict[str, str]], Mapping[str, str]]) -> Path:
    small_source(folder, files=3)
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({"weight_map": change(index["weight_map"])}))
    return folder


def test_an_index_that_leaves_out_tensors_is_filled_up(tmp_path: Path) -> None:
    whole = small_source(tmp_path / "whole", files=3)
    cut = indexed(tmp_path / "cut", lambda files: {n: f for n, f in files.items() if "layers.1." not in n})
    (warning,) = plan_of(cut).warnings
    assert "index.json leaves out 9 tensors" in warning
    assert "model.layers.1.input_layernorm.weight" in warning
    assert open_checkpoint(cut).tensors.keys() == open_checkpoint(whole).tensors.keys()
    assert native_plan(cut).warnings == (warning,)
    assert plan_of(cut).source_bytes == plan_of(whole).source_bytes


def test_a_file_of_the_series_that_the_index_forgets_is_used_or_refused_for_the_library(tmp_path: Path) -> None:
    cut = indexed(tmp_path, lambda files: {n: f for n, f in files.items() if f != SECOND})
    assert "leaves out" in plan_of(cut).warnings[0]
    assert {file.path.name for file in open_checkpoint(cut).files} >= {SECOND}
    with pytest.raises(CheckpointFileMissing, match=f"does not name {SECOND}"):
        native_plan(cut)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (write(SECOND, LFS), "git-lfs pointer"),
        (write(SECOND, "x" * 20), "is text and no safetensors file"),
        (lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1]), "bytes"),
        (lambda folder: [(folder / SECOND).unlink(), (folder / SECOND).symlink_to("../blobs/0a")], "../blobs/0a"),
        (lambda folder: (folder / SECOND).unlink(), "holds none of that name"),
    ],
)
def test_a_file_that_the_index_forgets_and_that_is_no_whole_one_is_named(
    change: Change, words: str, tmp_path: Path
) -> None:
    change(indexed(tmp_path, lambda files: {n: f for n, f in files.items() if f != SECOND}))
    assert_refused(tmp_path, "TensorMissing", INDEX, SECOND, "of the same series", words)


def test_a_file_outside_the_series_is_ignored(tmp_path: Path) -> None:
    whole = small_source(tmp_path, files=3)
    for name in (
        "model-00004-of-00003.safetensors",
        "other-00001-of-00003.safetensors",
        "model-00001-of-00009.safetensors",
    ):
        (tmp_path / name).write_bytes((tmp_path / SECOND).read_bytes())
    assert not plan_of(whole).warnings
    assert len(open_checkpoint(whole).files) == 3


def test_an_index_that_names_the_wrong_file_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    wrong = indexed(tmp_path, lambda files: {**files, "lm_head.weight": "model-00001-of-00003.safetensors"})
    if open_checkpoint(wrong).tensors["lm_head.weight"].file.path.name == "model-00001-of-00003.safetensors":
        wrong = indexed(tmp_path, lambda files: {**files, "lm_head.weight": SECOND})
    (warning,) = plan_of(wrong).warnings
    assert "another file for 1 tensor (lm_head.weight)" in warning


def test_a_tensor_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    small_source(tmp_path, files=3)
    checkpoint = open_checkpoint(tmp_path)
    first = next(tensor.name for tensor in checkpoint.tensors.values() if "00001" in tensor.file.path.name)
    held = {n: t for n, t in tensors_of(tmp_path).items() if checkpoint.tensors[n].file.path.name == SECOND}
    (tmp_path / SECOND).write_bytes(safetensors_bytes({**held, first: TENSOR}))
    assert_refused(tmp_path, "ConfigInvalid", first, "model-00001-of-00003.safetensors", SECOND, INDEX)


def fused_experts(module: str) -> tuple[str, ...]:
    layer = f"model.layers.0.{module}"
    return (f"{layer}.gate.weight", f"{layer}.experts.gate_up_proj", f"{layer}.experts.down_proj")


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("module", ["mlp", "block_sparse_moe"])
def test_experts_that_are_fused_into_one_are_recognised(family: str, module: str, tmp_path: Path) -> None:
    experts = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
    every(
        renamed(lambda name: None if ".mlp." in name else name),
        configure(model_type=family, **experts),
        and_tensors(
            *fused_experts(module), *(f"model.layers.{n}.self_attn.{w}_norm.weight" for n in (0, 1) for w in "qk")
        ),
    )(small_source(tmp_path))
    file = tmp_path / WEIGHTS
    tensors = tensors_of(tmp_path)
    gate = fused_experts(module)[0]
    norms = {
        name: ("BF16", np.zeros(16, np.uint16)) for name in tensors if name.endswith(("q_norm.weight", "k_norm.weight"))
    }
    file.write_bytes(safetensors_bytes({**tensors, **norms, gate: ("BF16", np.zeros((4, 64), np.uint16))}))
    assert_refused(tmp_path, "TensorMissing", f"{module}.experts.", "several of the model's tensors as one")


QUANTIZED_NAMES = {
    "model.layers.0.self_attn.q_proj.weight_qdata": "torchao",
    "model.layers.0.self_attn.q_proj.weight:_weight_qdata": "torchao",
    "model.layers.0.self_attn.q_proj.q_weight": "EXL2",
    "model.layers.0.self_attn.q_proj.q_perm": "EXL2",
    "model.layers.0.self_attn.q_proj.B": "Marlin",
    "model.layers.0.mlp.up_proj.s": "Marlin",
}


@pytest.mark.parametrize(("name", "method"), QUANTIZED_NAMES.items())
def test_names_of_tensors_tell_the_quantizer(name: str, method: str, tmp_path: Path) -> None:
    and_tensors(name, "model.layers.0.self_attn.q_proj.weight_scale")(small_source(tmp_path))
    assert_refused(tmp_path, "CheckpointQuantized", method, f"tensor {name}")


@pytest.mark.parametrize("settings", [True, ["fp8"], 8])
def test_settings_of_a_quantizer_in_another_form_are_recognised(settings: Any, tmp_path: Path) -> None:
    configure(quantization_config=settings)(small_source(tmp_path))
    assert_refused(tmp_path, "CheckpointQuantized", "an unnamed method", "quantization_config in its config.json")


def test_a_quantizers_file_that_is_a_broken_link_is_reported(tmp_path: Path) -> None:
    (small_source(tmp_path) / "quantize_config.json").symlink_to("../blobs/0a")
    assert_refused(tmp_path, "CheckpointFileMissing", "quantize_config.json is a symbolic link to ../blobs/0a")


def test_an_adapters_file_that_is_a_broken_link_is_warned_of(tmp_path: Path) -> None:
    (small_source(tmp_path) / "adapter_config.json").symlink_to("../blobs/0a")
    (warning,) = plan_of(tmp_path).warnings
    assert "adapter_config.json is a symbolic link to ../blobs/0a that leads nowhere" in warning


def test_what_may_stand_last_in_a_name_is_known_for_every_pattern() -> None:
    """A few names are looked at by the patterns: those of none must not be all that one of them fits."""
    cases = {
        "g_idx", "q_scale_max", "q_invperm", "q_groups", "trellis", "qweight", "qzeros", "SCB", "weight.absmax",
        "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.x", "weight.nested_absmax", "weight_packed",
        "weight_zero_point", "weight.bitmask", "weight_scale_inv", "weight_scale", "weight_scale_2", "weight._data",
        "W_q", "W_q_0", "meta.scale", "codebooks", "codes", "weight_scales", "centroids.weight", "res_centroids",
        "outlier_indices.weight", "dense_weights", "row_offsets", "in_perm", "Qidxs", "Qidxs_1", "tables", "tables2",
        "qscales", "scales", "scale", "weight.quant_map",
    }  # fmt: skip
    assert [case for case in sorted(cases) if not quantization_of({}, {}, (f"layers.0.mlp.up_proj.{case}",))] == []


def test_patterns_are_held_against_few_of_many_names() -> None:
    names = dict.fromkeys(f"model.layers.{number % 60}.experts.{number}.up" for number in range(200_000)).keys()
    assert quantization_of({}, {}, names) is None
    assert list(one_of_each_ending(names).items()) == [(".experts.0.up", "model.layers.0.experts.0.up")]


HEADLESS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "embedding": (
        every(without("lm_head.weight"), configure(architectures=["LlamaModel"])),
        ("architecture LlamaModel", "no lm_head.weight", "ForCausalLM"),
    ),
    "token_classifier": (
        every(without("lm_head.weight"), configure(architectures=["LlamaForTokenClassification"])),
        ("LlamaForTokenClassification", "ForCausalLM"),
    ),
    "classifier": (
        every(
            without("lm_head.weight"), and_tensors("score.weight"),
            configure(architectures=["LlamaForSequenceClassification"], tie_word_embeddings=True),
        ),
        ("tensor score.weight", "architecture LlamaForSequenceClassification", "gives no text"),
    ),
    "question_answering": (and_tensors("qa_outputs.weight"), ("tensor qa_outputs.weight",)),
    "critic": (
        every(without("lm_head.weight"), and_tensors("v_head.summary.weight")),
        ("tensor v_head.summary.weight",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "fragments"), HEADLESS.values(), ids=HEADLESS.keys())
def test_a_checkpoint_that_generates_no_text_is_refused(
    change: Change, fragments: tuple[str, ...], tmp_path: Path
) -> None:
    change(small_source(tmp_path))
    assert_refused(tmp_path, "LayoutRefused", *fragments)


def test_a_tied_model_without_a_head_is_warned_of(tmp_path: Path) -> None:
    every(without("lm_head.weight"), configure(architectures=["LlamaModel"], tie_word_embeddings=True))(
        small_source(tmp_path)
    )
    (warning,) = plan_of(tmp_path).warnings
    assert "architecture LlamaModel" in warning


@pytest.mark.parametrize("architectures", [["LlamaForCausalLM"], ["LlamaModel"], ["Own"], "LlamaModel", [7], None])
def test_a_model_with_a_head_is_one_of_language_whatever_its_class(architectures: Any, tmp_path: Path) -> None:
    configure(architectures=architectures)(small_source(tmp_path))
    assert not plan_of(tmp_path).warnings


def test_a_critics_head_next_to_the_models_own_is_left_out(tmp_path: Path) -> None:
    and_tensors("v_head.summary.weight")(small_source(tmp_path))
    (warning,) = plan_of(tmp_path).warnings
    assert "left out" in warning
    assert "v_head.summary.weight" in warning


INNOCENT = {
    "README.md": "# a model",
    ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text",
    "LICENSE": "none",
    "pytorch_model.bin": "PK\3\4",
    "model.gguf": "GGUF",
    "tf_model.h5": "x",
    "flax_model.msgpack": "x",
    "training_args.bin": "x",
    "optimizer.pt": "x",
    "consolidated.safetensors": "x",
    "params.json": "{}",
    "other.safetensors": LFS,
    "README.md.part": "x",
    "tokenizer.model": "x",
    "original/consolidated.00.pth": "x",
    "original/params.json": "{}",
    "onnx/model.onnx": "x",
    "checkpoint-500/trainer_state.json": "{}",
    ".cache/huggingface/download/abc.incomplete": "x",
}


@pytest.mark.parametrize("files", [1, 3])
def test_a_healthy_checkpoint_opens_whatever_lies_next_to_it(files: int, tmp_path: Path) -> None:
    alone = open_checkpoint(small_source(tmp_path, files=files))
    for name, content in INNOCENT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    with_files: Checkpoint = open_checkpoint(tmp_path)
    assert with_files.fingerprint == alone.fingerprint
    assert with_files.warnings == plan_of(tmp_path).warnings == native_plan(tmp_path).warnings == ()


def test_an_adapter_next_to_a_whole_model_is_warned_of(tmp_path: Path) -> None:
    write("adapter_config.json", ADAPTER)(small_source(tmp_path))
    (warning,) = plan_of(tmp_path).warnings
    assert "used without it" in warning


def test_a_generation_config_is_read_or_reported_as_empty(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    assert read_generation_config(Folder(tmp_path)) == ({}, ())
    file.write_text('\ufeff{"eos_token_id": [1, 2]}')
    assert read_generation_config(Folder(tmp_path)) == ({"eos_token_id": [1, 2]}, ())
    for content in ("", " \n", "null", "[]", "\ufeff"):
        file.write_text(content)
        settings, (warning,) = read_generation_config(Folder(tmp_path))
        assert settings == {}
        assert str(file) in warning
        assert "is empty" in warning


@pytest.mark.parametrize("content", ["{", "7", '"eos"', "[1]", '{"a":' * 9999, "\udcff"])
def test_a_generation_config_that_is_garbled_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigInvalid, match=r"generation_config\.json"):
        read_generation_config(Folder(tmp_path))
