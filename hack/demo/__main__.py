"""`make demo`: a language model from `kubectl apply` to an answer, both strategies, with every second accounted for.

Exits with 1, and says why, when anything is not as the demo says it is.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from hack.cluster.layout import LAYOUT, PROJECT
from hack.demo import manifests
from hack.demo.kubectl import CommandFailed, environment, get, run
from hack.demo.timings import table

OPERATOR_NAMESPACE = "neuronmodel-system"
MODELS = {"smollm2-compile": "ShardOnCompile", "smollm2-load": "ShardOnLoad"}
RESTARTED = "smollm2-compile"
QUESTION = "What is the capital of France?"
EXPECTED = "Paris"
READY_WITHIN_SECONDS = 300


class NotAsPromised(Exception):
    """What the demo promises and did not see; a sentence."""


def main() -> int:
    began = time.monotonic()
    try:
        for step in ("up", "model", "images"):
            subprocess.run((sys.executable, "-m", "hack.cluster", step), cwd=PROJECT, check=True)
        _tell_story()
    except (NotAsPromised, CommandFailed) as failure:
        print(f"\nmake demo: {failure}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failure:
        return failure.returncode or 1
    print(f"\nmake demo: everything was as it says, in {time.monotonic() - began:.0f} s")
    return 0


def _tell_story() -> None:
    _title("The operator, installed with its Helm chart")
    _install_operator()

    _title(f"Two NeuronModels of {manifests.MODEL} at tensor parallel degree {manifests.TENSOR_PARALLEL_DEGREE}")
    _clear_last_demo()
    for manifest in (manifests.namespace(), manifests.models_claim()):
        _apply(manifest)
    for name, strategy in MODELS.items():
        _apply(manifests.neuron_model(name, strategy))
    first = {name: _wait_for_start(name, previous=None) for name in MODELS}
    run("kubectl", "get", "nm", "-n", manifests.NAMESPACE)

    _title("A question to both")
    answers = {name: _ask(name) for name in MODELS}
    _expect(len(set(answers.values())) == 1, f"the two strategies answer differently: {answers}")

    _title(f"The second start: {RESTARTED} shards nothing")
    _delete_pods(RESTARTED)
    again = _wait_for_start(RESTARTED, previous=first[RESTARTED]["id"])
    names = [phase["name"] for phase in again["phases"]]
    _expect(not {"Sharded", "Compiled"} & set(names), f"the second start went through {', '.join(names)}")
    _expect(_ask(RESTARTED) == answers[RESTARTED], "the second start gives another answer than the first")
    _delete_pods("smollm2-load")
    load_again = _wait_for_start("smollm2-load", previous=first["smollm2-load"]["id"])

    _title("Where the time went")
    columns = [
        ("ShardOnCompile, first", first[RESTARTED]),
        ("second", again),
        ("ShardOnLoad, first", first["smollm2-load"]),
        ("second", load_again),
    ]
    print(table(columns))
    for title, start in columns:
        total = sum(phase["milliseconds"] for phase in start["phases"])
        _expect(total == start["totalMilliseconds"], f"{title}: the phases add up to {total} ms, not to the total")
    _say_what_next()


def _install_operator() -> None:
    operator, worker = (_split_image(reference) for reference in _images())
    run(
        *("helm", "upgrade", "--install", "neuronmodel", str(PROJECT / "charts" / "neuronmodel")),
        *("--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s"),
        *("--set", f"image.repository={operator[0]},image.tag={operator[1]}"),
        *("--set", f"workerImages.cpu={':'.join(worker)}"),
    )


def _images() -> tuple[str, str]:
    built = json.loads(LAYOUT.images.read_text())
    return built["operator"], built["worker"]


def _split_image(reference: str) -> tuple[str, str]:
    repository, _, tag = reference.rpartition(":")
    return repository, tag


def _clear_last_demo() -> None:
    """A second demo begins as the first did."""
    run("kubectl", "delete", "namespace", manifests.NAMESPACE, "--ignore-not-found", "--wait", "--timeout=180s")
    subprocess.run((sys.executable, "-m", "hack.cluster", "recycle"), cwd=PROJECT, check=True)


def _apply(manifest: dict[str, Any]) -> None:
    document = yaml.safe_dump(manifest, sort_keys=False)
    print(f"\n$ kubectl apply -f - <<EOF\n{document}EOF")
    print("  " + run("kubectl", "apply", "-f", "-", stdin=document, show=False).strip(), flush=True)


def _wait_for_start(name: str, previous: str | None) -> dict[str, Any]:
    """The newest start, once it is Ready and another one than `previous`. Shows each step on the way."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    shown = ""
    while time.monotonic() < deadline:
        status = get("nm", name, "-n", manifests.NAMESPACE).get("status", {})
        if (line := _progress(status)) != shown:
            print(f"  {name}: {line}", flush=True)
            shown = line
        starts = status.get("starts", [])
        if starts and starts[0]["id"] != previous and starts[0]["outcome"] == "Ready" and _is_ready(status):
            newest: dict[str, Any] = starts[0]
            return newest
        time.sleep(0.5)
    raise NotAsPromised(f"{name} was not Ready within {READY_WITHIN_SECONDS} s; its last status: {shown}")


def _is_ready(status: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))


def _progress(status: dict[str, Any]) -> str:
    ready: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
    under_way = [
        f"{worker['progress']['stage']}/{worker['progress']['phase']}"
        + (f" {worker['progress']['percent']} %" if "percent" in worker["progress"] else "")
        for worker in status.get("workers", [])
        if "progress" in worker
    ]
    return ", ".join([f"{status.get('phase', '…')} ({ready.get('reason', '…')})", *under_way])


def _ask(name: str) -> str:
    with _port_forward(name) as port:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            data=json.dumps(
                {
                    "model": name,
                    "messages": [{"role": "user", "content": QUESTION}],
                    "temperature": 0,
                    "max_tokens": 32,
                }
            ).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310 (loopback)
            answer = str(json.load(response)["choices"][0]["message"]["content"]).strip()
    print(f"  {name}: {QUESTION!r} -> {answer!r}", flush=True)
    _expect(EXPECTED in answer, f"{name} answered {answer!r}, where {EXPECTED} belongs")
    return answer


@contextmanager
def _port_forward(name: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = ("kubectl", "port-forward", "-n", manifests.NAMESPACE, f"service/{name}", f"{port}:8000")
    print(f"\n$ {' '.join(command)} &", flush=True)
    forward = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        first = forward.stdout.readline() if forward.stdout else ""
        _expect("Forwarding" in first, f"`{' '.join(command)}` printed: {first.strip()}")
        yield port
    finally:
        forward.terminate()
        forward.wait()


def _delete_pods(name: str) -> None:
    selector = f"neuronmodel.dev/model={name},neuronmodel.dev/component=serve"
    run("kubectl", "delete", "pod", "-n", manifests.NAMESPACE, "-l", selector, "--wait=true")


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise NotAsPromised(message)


def _title(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def _say_what_next() -> None:
    print(f"""
Look around:
  eval "$(python3 -m hack.cluster env)"
  kubectl get nm -n {manifests.NAMESPACE} -o wide
  kubectl describe nm {RESTARTED} -n {manifests.NAMESPACE}
  kubectl explain nm.spec.sharding
End it:
  kubectl delete namespace {manifests.NAMESPACE}    # the models
  make down                                    # the cluster""")


if __name__ == "__main__":
    sys.exit(main())
