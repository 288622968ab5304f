import os
from pathlib import Path

import numpy as np
import pytest

from neuronmodel_worker.failures import LinkBroken, SourceChanged, SourceNotFound, SourceUnreadable
from neuronmodel_worker.io.aligned import SLACK, fresh
from neuronmodel_worker.io.untrusted_input import NotAFile
from neuronmodel_worker.sources import Folder, SourceFile

CONTENT = bytes(range(256)) * 64
NAME = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / NAME).write_bytes(CONTENT)
    return Folder(tmp_path)


def file_of(folder: Folder) -> SourceFile:
    stat = folder.path(NAME).stat()
    return SourceFile(folder.path(NAME), stat.st_size, stat.st_mtime_ns, "0")


def test_every_way_of_reading_gives_the_bytes(folder: Folder) -> None:
    opened = folder.open(file_of(folder))
    assert opened.read(5000, 3000, fresh(3000 + SLACK)).tobytes() == CONTENT[5000:8000]
    opened.prefetch(0, len(CONTENT))
    into = np.empty(700, np.uint8)
    opened.read_into(len(CONTENT) - 700, into)
    assert into.tobytes() == CONTENT[-700:]
    columns = np.empty(7 * 64, np.uint8)
    opened.read_columns(3, 256, 7, columns)
    assert columns.tobytes() == b"".join(CONTENT[3 + row * 256 : 10 + row * 256] for row in range(64))
    opened.forget(0, len(CONTENT))
    opened.check_unchanged()
    opened.close()


def test_what_ends_early_has_changed(folder: Folder) -> None:
    opened = folder.open(file_of(folder))
    os.truncate(folder.path(NAME), 1000)
    for read in (
        lambda: opened.read(900, 200, fresh(200 + SLACK)),
        lambda: opened.read_into(900, np.empty(200, np.uint8)),
        lambda: opened.read_columns(900, 300, 100, np.empty(200, np.uint8)),
        opened.check_unchanged,
    ):
        with pytest.raises(SourceChanged, match="16,384"):
            read()
    opened.close()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("how", ["touched", "replaced", "removed"])
def test_a_file_that_is_another_one_has_changed(folder: Folder, how: str, is_open: bool) -> None:
    file, path = file_of(folder), folder.path(NAME)
    opened = folder.open(file) if is_open else None
    if how == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.rename(path.with_name("former"))
    if how == "replaced":
        path.write_bytes(CONTENT[:-1])
    with pytest.raises(SourceChanged):
        folder.stat(file)
    if opened:
        with pytest.raises(SourceChanged):
            opened.check_unchanged()
        opened.close()
    else:
        with pytest.raises(SourceUnreadable if how == "removed" else SourceChanged):
            folder.open(file)


def test_a_file_that_is_as_it_was_has_not_changed(folder: Folder) -> None:
    assert folder.stat(file_of(folder)) == folder.stat(file_of(folder))
    assert folder.stat(file_of(folder)).nbytes == len(CONTENT)


def test_what_is_in_a_folder(folder: Folder) -> None:
    folder.path("nothing").symlink_to("nowhere")
    folder.path("below").mkdir()
    unfinished = folder.path(".cache/huggingface/download")
    unfinished.mkdir(parents=True)
    (unfinished / "part.incomplete").touch()
    (unfinished / "part.metadata").touch()
    assert folder.names(100) == {NAME, "nothing", "below", ".cache", "part.incomplete"}
    assert [name for name in sorted(folder.names(100)) if folder.exists(name)] == [".cache", "below", NAME]
    assert [name for name in sorted(folder.names(100)) if folder.is_file(name)] == [NAME]
    folder.refuse_broken_link(NAME)
    folder.refuse_broken_link("absent")
    with pytest.raises(LinkBroken, match="nowhere"):
        folder.refuse_broken_link("nothing")


def test_a_stream_begins_again(folder: Folder) -> None:
    with folder.stream(NAME) as stream:
        assert (stream.nbytes, stream.mtime_ns) == (len(CONTENT), file_of(folder).mtime_ns)
        assert stream.read(10) + stream.read(10) == CONTENT[:20]
        stream.rewind()
        assert stream.read(10) == CONTENT[:10]


def test_what_cannot_be_streamed(folder: Folder) -> None:
    folder.path("nothing").symlink_to("nowhere")
    folder.path("below").mkdir()
    os.mkfifo(folder.path("pipe"))
    for name, refusal in {
        "absent": FileNotFoundError,
        "nothing": LinkBroken,
        "below": NotAFile,
        "pipe": NotAFile,
    }.items():
        with pytest.raises(refusal), folder.stream(name):
            pass


@pytest.mark.parametrize("name", ["absent", NAME, "nothing"])
def test_what_is_no_folder(folder: Folder, name: str) -> None:
    folder.path("nothing").symlink_to("nowhere")
    folder.require()
    with pytest.raises(SourceNotFound):
        Folder(folder.path(name)).require()
