"""`neuronmodel artifacts`: lists, shows and verifies the sets on an artifacts volume, and collects those nobody
needs."""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuronmodel_api import exits
from neuronmodel_worker.commands.inputs import reading_threads_of
from neuronmodel_worker.commands.quantities import age_of, bytes_of, shown_age
from neuronmodel_worker.commands.terminal import print_line, print_note, progress
from neuronmodel_worker.commands.usage_errors import FolderRefused
from neuronmodel_worker.failures import (
    ArtifactDamaged,
    ArtifactsTooNew,
    ArtifactsUnreadable,
    ArtifactsVolumeFull,
    UsageInvalid,
    WorkerFailure,
)
from neuronmodel_worker.store import Collected, Item, Policy, Store
from neuronmodel_worker.store.keys import is_key
from neuronmodel_worker.store.manifest import MANIFEST, Manifest, read_manifest
from neuronmodel_worker.units import duration, in_units, rate

STORE_FOLDERS = ("compiled", "shards", "refs", "staging")
"""Every artifact store has at least one of these folders."""
HEADINGS = ("KIND", "KEY", "SIZE", "AGE", "REFERENCES", "STATE")


class ArtifactsDamaged(WorkerFailure):
    """How `neuronmodel artifacts verify` ends; the problems themselves were printed."""

    exit_code = exits.ARTIFACT_DAMAGED

    def __init__(self, store: Path, damaged: int, apart: bool) -> None:
        found = "1 set is damaged" if damaged == 1 else f"{damaged} sets are damaged"
        done = "They were put into quarantine, and are built again when they are needed."
        if damaged == 1:
            done = "It was put into quarantine, and is built again when it is needed."
        todo = "Give --quarantine to put what is damaged apart, so that it is built again."
        super().__init__(f"{found} in {store}. {done if apart else todo}")


def artifacts(options: argparse.Namespace) -> None:
    """Runs the action. Raises FolderRefused, UsageInvalid, ArtifactsDamaged, ArtifactsVolumeFull and failures of the
    volume."""
    if not any((options.store / each).is_dir() for each in STORE_FOLDERS):
        raise FolderRefused(
            f"{options.store} is no artifact store: it holds none of {', '.join(STORE_FOLDERS)}. Name the folder where "
            "the artifacts volume is mounted."
        )
    actions: dict[str, Callable[[argparse.Namespace], None]]
    actions = {"list": _list, "show": _show, "verify": _verify, "collect": _collect}
    actions[options.action](options)


# list


def _list(options: argparse.Namespace) -> None:
    store = Store(options.store, read_only=True)
    rows = [(item, _state(store, item)) for item in store.items()]
    if options.json:
        print_line(json.dumps([_described(item, state) for item, state in rows]))
        return
    for line in _table([HEADINGS, *(_row(item, state) for item, state in rows)]):
        print_line(line)


def _state(store: Store, item: Item) -> str:
    if item.what == "quarantined":
        return f"in quarantine: {store.reason(item.directory)}"
    if item.what == "staging":
        return "being written" if item.living else "left by a writer that is gone"
    assert item.kind
    try:
        problems = store.problems(item.kind, item.key)
    except ArtifactsTooNew:
        return "sealed by a newer version"
    return f"damaged: {problems[0]}" if problems else "sealed"


def _row(item: Item, state: str) -> tuple[str, ...]:
    owners = ", ".join(item.owners) or "none"
    return item.kind or "", item.key, in_units(item.nbytes), shown_age(time.time() - item.since), owners, state


def _described(item: Item, state: str) -> dict[str, Any]:
    return {
        "what": item.what,
        "kind": item.kind,
        "key": item.key,
        "path": str(item.directory),
        "bytes": item.nbytes,
        "since": datetime.fromtimestamp(item.since, UTC).isoformat(timespec="seconds"),
        "references": list(item.owners),
        "state": state,
    }


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# show


def _show(options: argparse.Namespace) -> None:
    store = Store(options.store, read_only=True)
    item = _find_set(store, options.key)
    manifest, state = _manifest(item), _state(store, item)
    if options.json:
        print_line(json.dumps({**_described(item, state), "manifest": manifest.model_dump(mode="json")}))
        return
    for line in _details(item, manifest, state):
        print_line(line)


def _manifest(item: Item) -> Manifest:
    """Reads the set's manifest. Raises ArtifactDamaged, ArtifactsTooNew and ArtifactsUnreadable."""
    try:
        return read_manifest(item.directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactDamaged(item.directory, f"it has no {MANIFEST}") from error
    except OSError as error:
        raise ArtifactsUnreadable(item.directory, error) from error


def _details(item: Item, manifest: Manifest, state: str) -> Iterable[str]:
    yield f"kind        {item.kind}"
    yield f"key         {item.key}"
    yield f"state       {state}"
    yield f"sealed      {manifest.created:%Y-%m-%d %H:%M:%S} UTC, by version {manifest.tool_version}"
    yield f"references  {', '.join(item.owners) or f'none since {shown_age(time.time() - item.since)}'}"
    for name, value in _flat(manifest.inputs):
        yield f"input       {name} = {json.dumps(value)}"
    for name, entry in sorted(manifest.files.items()):
        yield f"file        {name}, {entry.nbytes:,} bytes, {entry.algorithm} {entry.digest}"


def _flat(inputs: dict[str, Any], path: str = "") -> Iterable[tuple[str, object]]:
    for name, value in sorted(inputs.items()):
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _find_set(store: Store, key: str) -> Item:
    """Finds the only set whose key begins with `key`. Raises UsageInvalid."""
    found = [item for item in store.items() if item.what == "set" and item.key.startswith(key)]
    if len(found) != 1:
        raise _ambiguous_key(store, key, len(found))
    return found[0]


def _ambiguous_key(store: Store, key: str, found: int) -> UsageInvalid:
    if not found:
        return UsageInvalid(f"No set in {store.root} has the key {key!r}. `neuronmodel artifacts list` shows all.")
    return UsageInvalid(f"{found} sets in {store.root} have keys that begin with {key!r}. Give more of the key.")


# verify


def _verify(options: argparse.Namespace) -> None:
    threads = reading_threads_of(options)
    reader = Store(options.store, read_only=True)
    items = [_find_set(reader, options.key)] if options.key else [item for item in reader.items() if item.what == "set"]
    store = Store(options.store) if options.quarantine else reader
    began, damaged = time.monotonic(), 0
    total = sum(item.nbytes for item in items)
    with progress("artifacts", "read", total, options.quiet or not options.full) as show:
        before = 0
        for item in items:
            damaged += _verify_one(store, item, options, threads, _after(before, show))
            before += item.nbytes
    if damaged:
        raise ArtifactsDamaged(options.store, damaged, options.quarantine)
    seconds = time.monotonic() - began
    read = f"; all bytes read in {duration(seconds)} ({rate(total, seconds)})" if options.full else ""
    count = "1 set" if len(items) == 1 else f"{len(items)} sets"
    print_line(f"{count}, {in_units(total)}: as they were sealed{read}")


def _verify_one(
    store: Store, item: Item, options: argparse.Namespace, threads: int, show: Callable[[int], None]
) -> bool:
    assert item.kind
    try:
        problems = store.problems(
            item.kind, item.key, full=options.full, progress=show, threads=threads, quarantine=options.quarantine
        )
    except ArtifactsTooNew as newer:
        print_note("artifacts", str(newer))
        return False
    for problem in problems:
        print_line(f"{item.kind} {item.key}: {problem}")
    return bool(problems)


def _after(before: int, show: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: show(before + done)


# collect


def _collect(options: argparse.Namespace) -> None:
    for owner in options.force_unref:
        _require_one_owner(owner)
    store = Store(options.store, read_only=options.dry_run)
    policy = Policy(
        older_than_seconds=age_of(options.older_than, "--older-than"),
        want_bytes=bytes_of(options.want, "--want") if options.want else 0,
        keep=frozenset(_resolve_key(store, key) for key in options.keep),
        dry_run=options.dry_run,
        without=frozenset(options.force_unref),
    )
    for owner in options.force_unref:
        keys = store.references.keys_of(owner) if options.dry_run else store.unrefer(owner)
        would = "would no longer refer" if options.dry_run else "no longer refers"
        print_line(f"{owner} {would} to {', '.join(keys)}" if keys else f"{owner} refers to nothing")
    collected = store.collect(policy)
    for line in _removal_lines(collected, options.dry_run):
        print_line(line)
    if collected.free_bytes < policy.want_bytes:
        raise ArtifactsVolumeFull(options.store, policy.want_bytes, collected.free_bytes, store.in_use(policy.keep))


def _resolve_key(store: Store, text: str) -> str:
    """Returns the complete key of --keep: a key that was not recognized would cost its set. Raises UsageInvalid."""
    if is_key(text):
        return text
    found = {item.key for item in store.items() if item.key.startswith(text)}
    if len(found) != 1:
        raise _ambiguous_key(store, text, len(found))
    return found.pop()


def _require_one_owner(text: str) -> None:
    """Raises UsageInvalid."""
    if not re.fullmatch(r"[^./*?\[\]][^/*?\[\]]*", text):
        raise UsageInvalid(
            f"--force-unref is {text!r} and has to be one owner, namespace.name.uid. `neuronmodel artifacts list` "
            "shows all."
        )


def _removal_lines(collected: Collected, dry_run: bool) -> Iterable[str]:
    would = "would be " if dry_run else ""
    for item in collected.items:
        yield f"{item.kind or 'leftovers'} {item.key}: {in_units(item.nbytes)} {would}removed, {_why(item)}"
    verb = "would be free" if dry_run else "are free"
    yield f"{in_units(collected.nbytes)} {would}removed; {in_units(collected.free_bytes)} {verb}"


def _why(item: Item) -> str:
    age = shown_age(time.time() - item.since)
    if item.what == "quarantined":
        return f"in quarantine for {age}"
    if item.what == "staging":
        return f"left by a dead writer for {age}"
    return f"without a reference for {age}"
