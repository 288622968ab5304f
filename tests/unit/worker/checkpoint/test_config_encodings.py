"""NxD Inference's transformers reads config.json as UTF-8 without a byte order mark: another encoding is rewritten."""

import codecs
import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from neuronmodel_worker.engines.nxdi.load_directory import write_readable

CONFIG = {"model_type": "llama", "hidden_size": 64, "_name_or_path": "Überlänge"}
TEXT = json.dumps(CONFIG, ensure_ascii=False)


@pytest.mark.parametrize(
    "content", [codecs.BOM_UTF8 + TEXT.encode(), TEXT.encode("utf-16"), TEXT.encode("utf-16-le"), TEXT.encode("utf-32")]
)
def test_what_transformers_does_not_read_is_rewritten(tmp_path: Path, content: bytes) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    (source / "config.json").write_bytes(content)
    (source / "tokenizer.json").write_text("{}")
    assert write_readable(source, folder)
    assert AutoConfig.from_pretrained(folder).hidden_size == 64
    assert json.loads((folder / "config.json").read_text("utf-8")) == CONFIG
    assert (folder / "tokenizer.json").resolve() == source / "tokenizer.json"


def test_what_it_reads_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(TEXT.encode())
    assert not write_readable(tmp_path, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
