"""What is there when a story is over, object by object, without what differs each time it is told.

What may differ, and is taken out: UIDs, versions, times and durations, the parts of names that are made up, hashes of
what has a UID in it (the same one is the same everywhere), addresses, what other controllers count, phases of a start
that Kubernetes' whole seconds make to nothing, and Events, which an operator that is killed between a status and its
Event does not write.
"""

import json
import re
from collections.abc import Iterable
from copy import deepcopy
from itertools import zip_longest
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.campaign.trial import MODEL
from tests.unit.operator.simulated import component

KINDS: Final = (client.MODEL, client.DEPLOYMENT, client.SERVICE, client.CLAIM, client.JOB, client.POD)
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
UID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HASH: Final = re.compile(r"\b[0-9a-f]{16}\b")
RATE: Final = re.compile(r'"[A-Za-z]*(?:BytesPerSecond|Milliseconds)":\d+,?')
"""In a text of JSON. A phase that whole seconds made to nothing has none."""
SECONDS: Final = re.compile(r"\b\d+(\.\d+)? (ms|s|seconds|min)\b|\b\d+\.\d+s\b")
OF_A_DEPLOYMENT: Final = re.compile(
    rf"\b({MODEL})-[bcdfghjklmnpqrstvwxz0-9]{{4,10}}-[bcdfghjklmnpqrstvwxz2456789]{{5}}\b"
)
OF_A_JOB: Final = re.compile(r"(prepare-[0-9a-f]{8}-\d+|cleanup-[0-9a-f]+)-[bcdfghjklmnpqrstvwxz2456789]{5}\b")
NOT_COMPARED: Final = frozenset(
    {
        *("uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink", "generateName"),
        *("milliseconds", "busyMilliseconds", "totalMilliseconds", "bytesPerSecond"),
        *("clusterIP", "pod-template-hash", "clusterIPs", "observedGeneration", "startedAt", "deletionTimestamp"),
    }
)

OF_WORKERS: Final = ("SourceOpened", "Sharded", "Read")
"""The phases that played workers report."""

MAX_SHOWN: Final = 160
"""Characters of a value in a sentence."""
CONTEXT: Final = 40
"""Characters of a long text before the first that differs."""
Object = dict[str, Any]
EndState = dict[str, Any]


async def end_state(api: Api, namespace: str) -> EndState:
    found: EndState = {}
    for kind in KINDS:
        for o in await api.list(kind, namespace):
            if kind is client.CLAIM and names.LABEL_MODEL not in o["metadata"].get("labels", {}):
                continue  # the user's own
            found |= _as_entries(kind, o, namespace, found)
    return _with_numbered_hashes(found)


def _with_numbered_hashes(found: EndState) -> EndState:
    text = json.dumps(found)
    numbers = {each: f"<hash {number}>" for number, each in enumerate(dict.fromkeys(HASH.findall(text)), start=1)}
    numbered: EndState = json.loads(HASH.sub(lambda each: numbers[each[0]], text))
    return numbered


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """A sentence for each place."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines: list[str] = []
        for key in sorted({*expected, *found}):
            place = f"{path}/{key}"
            if key not in found:
                lines.append(f"{place} is missing (it is {_short(expected[key])} without a fault)")
            elif key not in expected:
                lines.append(f"{place} is {_short(found[key])}, and is not there without a fault")
            else:
                lines += differences(expected[key], found[key], place)
        return lines
    if isinstance(expected, list) and isinstance(found, list):
        pairs = enumerate(zip_longest(expected, found, fillvalue="nothing"))
        return [line for number, pair in pairs for line in differences(*pair, f"{path}[{number}]")]
    if isinstance(expected, str) and isinstance(found, str):
        same = next((n for n, pair in enumerate(zip(expected, found, strict=False)) if len(set(pair)) > 1), 0)
        begin = max(0, same - CONTEXT)
        expected, found = (text if len(text) <= MAX_SHOWN else f"…{text[begin:]}" for text in (expected, found))
    return [] if expected == found else [f"{path} is {_short(found)} in place of {_short(expected)}"]


def without_reports_that_are_lost(expected: EndState, found: EndState) -> EndState:
    """What is expected where former workers could not be asked before they went: their starts are there, without the
    phases and the tier that only they knew. The last start's worker is still there to be asked."""
    expected = deepcopy(expected)
    for key, model in found.items():
        former = list(zip(_starts(expected.get(key)), _starts(model), strict=False))[1:]
        for wanted, start in former:
            wanted["phases"] = [phase for phase in wanted["phases"] if phase in start["phases"]]
            if "tier" not in start:
                wanted.pop("tier", None)
    return expected


def _starts(o: Object | None) -> list[Object]:
    found: list[Object] = ((o or {}).get("status") or {}).get("starts", [])
    return found


def _as_entries(kind: client.Kind, o: Object, namespace: str, others: Iterable[str]) -> EndState:
    name = o["metadata"]["name"]
    if kind is client.POD:
        o = {"metadata": {"labels": o["metadata"]["labels"], "annotations": o["metadata"].get("annotations")},
             "spec": o["spec"], "phase": o["status"].get("phase"), "isReady": _is_ready(o)}  # fmt: skip
        name = f"{component(o)}"
    elif kind in (client.DEPLOYMENT, client.JOB, client.SERVICE, client.CLAIM):
        o = {key: value for key, value in o.items() if key != "status"}
        # Kubernetes counts a change of a Deployment's annotations as one, and one of them has a time.
        o["metadata"] = {key: value for key, value in o["metadata"].items() if key != "generation"}
    number = 1
    while (key := f"{kind.kind} {name}{f' ({number})' if number > 1 else ''}") in others:
        number += 1
    if kind is client.MODEL:
        o = _of_model(o)
    return {key: _plain(o, namespace)}


def _of_model(o: Object) -> Object:
    status = dict(o.get("status") or {})
    conditions = {each["type"]: {**each, "of": each.get("observedGeneration")} for each in status.get("conditions", ())}
    starts = [
        {**start, "phases": [_phase(each) for each in start.get("phases", ()) if each["name"] in OF_WORKERS]}
        for start in status.get("starts", ())
    ]
    generation = {"of": status.get("observedGeneration")}
    return o | {"status": status | generation | {"conditions": conditions, "starts": starts}}


def _phase(phase: Object) -> str:
    return f"{phase['stage']} {phase.get('attempt', 1)} {phase['name']}"


def _is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _plain(value: Any, namespace: str) -> Any:
    if isinstance(value, dict):
        return {
            _text(key, namespace): _plain(each, namespace) for key, each in value.items() if key not in NOT_COMPARED
        }
    if isinstance(value, list):
        return [_plain(each, namespace) for each in value]
    return _text(value, namespace) if isinstance(value, str) else value


def _text(text: str, namespace: str) -> str:
    text = text.replace(namespace, "<namespace>")
    for pattern, plain in (
        (TIME, "<time>"), (UID, "<uid>"), (OF_A_JOB, r"\1-<pod>"), (OF_A_DEPLOYMENT, r"\1-<pod>"),
        (SECONDS, "<seconds>"), (RATE, ""),
    ):  # fmt: skip
        text = pattern.sub(plain, text)
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
