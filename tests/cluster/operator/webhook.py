"""An admission webhook whose answers are configured, and configurations that send it chosen writes of the operator."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from neuronmodel_operator.cluster.client import Api, ApiError, Kind
from neuronmodel_operator.state.plan import ObjectRef
from tests.cluster.operator.process import until
from tests.ports import free_port

CONFIGURATION: Final = Kind(
    "admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
)
CONFIG_MAP: Final = Kind("", "v1", "ConfigMap", "configmaps")
HOST: Final = "127.0.0.1"
NAME: Final = "policy.example.com"
PROBE: Final = "answers.neuronmodel.dev/probe"
"""A label: whether a ConfigMap with it is refused tells whether a configuration is in force."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """Of the webhook, as the API server makes it the answer to a write."""

    name: str
    """As objects are named by it, and the webhook's path."""
    described: str
    reason: str
    """That the NeuronModel gives for it."""
    words: str
    """That it quotes."""
    status: Mapping[str, Any] | None = None
    """Of a denial; None: no answer that could be understood."""
    waits_seconds: float = 0
    """Before it answers."""
    timeout_seconds: int = 10
    """Of the configuration."""


def _denied(code: int, words: str, reason: str = "WriteFailed", **more: Any) -> Answer:
    return Answer(str(code), f"{code}, “{words}”", reason, words, {"code": code, "message": words} | more)


RANGE_IS_FULL: Final = _denied(500, "range is full")
NOBODY: Final = Answer("nobody", "a webhook that nobody serves", "WebhookFailed", "connection refused")
SILENT: Final = Answer("silent", "nothing, for 30 s", "NoAnswer", "has not answered yet", None, 45, 30)
ANSWERS: Final = (
    _denied(403, "not on a Friday", "WriteRefused"),
    _denied(409, "somebody was quicker"),
    _denied(429, "slow down", details={"retryAfterSeconds": 2}),
    RANGE_IS_FULL,
    _denied(503, "not now"),
    NOBODY,
    Answer("garbage", "a webhook that talks nonsense", "WebhookFailed", "failed calling webhook"),
    Answer("slow", "a webhook that times out after 3 s", "WebhookFailed", "failed calling webhook", None, 5, 3),
    SILENT,
)


@dataclass(frozen=True)
class Writes:
    """Which writes of an account are meant: to one resource in one namespace, chosen by label or by expression."""

    account: str
    namespace: str
    group: str
    version: str
    resource: str
    operations: tuple[str, ...] = ("CREATE", "UPDATE")
    labels: Mapping[str, str] | None = None
    expression: str = "true"
    """In CEL."""


class Webhook:
    """Where it listens, and whom its clients trust."""

    def __init__(self, api: Api, port: int, authority: bytes) -> None:
        self._api = api
        self._port = port
        self._authority = base64.b64encode(authority).decode()
        self._nobodys_port = free_port()

    async def begin(self, name: str, answer: Answer, writes: Writes) -> "Configured":
        """Returns when it is in force."""
        manifest = {"metadata": {"name": name}, "webhooks": [self._hook(answer, writes), self._probe(name, writes)]}
        made = await self._api.create(CONFIGURATION, None, manifest)
        await until(lambda: self._is_in_force(name, writes.namespace), what="in force")
        return Configured(self._api, _reference(made))

    def _hook(self, answer: Answer, writes: Writes) -> Object:
        is_operator = f"request.userInfo.username == '{writes.account}'"
        hook = self._defaults(writes) | {
            "name": NAME,
            "clientConfig": self._client(answer.name, self._nobodys_port if answer is NOBODY else self._port),
            "timeoutSeconds": answer.timeout_seconds,
            "rules": [_rule(writes.group, writes.version, writes.resource, writes.operations)],
            "matchConditions": [{"name": "meant", "expression": f"{is_operator} && ({writes.expression})"}],
        }
        return hook | ({"objectSelector": {"matchLabels": dict(writes.labels)}} if writes.labels else {})

    def _probe(self, name: str, writes: Writes) -> Object:
        return self._defaults(writes) | {
            "name": f"probe.{NAME}",
            "clientConfig": self._client(RANGE_IS_FULL.name, self._port),
            "rules": [_rule("", "v1", "configmaps", ("CREATE",))],
            "objectSelector": {"matchLabels": {PROBE: name}},
        }

    def _defaults(self, writes: Writes) -> Object:
        return {
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": writes.namespace}},
        }

    def _client(self, path: str, port: int) -> Object:
        return {"url": f"https://{HOST}:{port}/{path}", "caBundle": self._authority}

    async def _is_in_force(self, name: str, namespace: str) -> bool:
        probe = {"metadata": {"generateName": "probe-", "labels": {PROBE: name}}}
        try:
            made = await self._api.create(CONFIG_MAP, namespace, probe)
        except ApiError as error:
            if "denied the request" in error.message:
                return True
            raise
        await self._api.delete(CONFIG_MAP, namespace, _reference(made))
        return False


@dataclass(frozen=True)
class Configured:
    """A configuration that is in force."""

    api: Api
    ref: ObjectRef

    async def end(self) -> None:
        await self.api.delete(CONFIGURATION, None, self.ref)


@asynccontextmanager
async def listening(api: Api, folder: Path) -> AsyncIterator[Webhook]:
    """`folder` is for its key and certificate. Configurations that a test left behind go at the end."""
    certificate, key = _make_certificate(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    closing = asyncio.Event()
    app = web.Application()
    app.add_routes([web.post(f"/{answer.name}", _handler(answer, closing)) for answer in ANSWERS])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, HOST, port, ssl_context=context).start()
    try:
        yield Webhook(api, port, certificate.read_bytes())
    finally:
        await _remove_configurations(api, f"https://{HOST}:{port}/")
        closing.set()
        await runner.cleanup()


def _handler(answer: Answer, closing: asyncio.Event) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        review = await request.json()
        with suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), answer.waits_seconds)
        if answer.status is None:
            return web.Response(text="This is no AdmissionReview.")
        response = {"uid": review["request"]["uid"], "allowed": False, "status": answer.status}
        return web.json_response({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response})

    return handle


async def _remove_configurations(api: Api, url: str) -> None:
    for found in await api.list(CONFIGURATION, None):
        if any(hook["clientConfig"].get("url", "").startswith(url) for hook in found["webhooks"]):
            await api.delete(CONFIGURATION, None, _reference(found))


def _rule(group: str, version: str, resource: str, operations: Sequence[str]) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "resources": [resource],
        "operations": list(operations),
        "scope": "Namespaced",
    }


def _reference(o: Object) -> ObjectRef:
    return ObjectRef(o["apiVersion"], o["kind"], o["metadata"]["name"], o["metadata"]["uid"])


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """Its own authority."""
    certificate, key = folder / "webhook.crt", folder / "webhook.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=webhook"),
            *("-addext", f"subjectAltName=IP:{HOST}", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
