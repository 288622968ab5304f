"""The client of the API server: objects are dicts, errors have one type, and every call is counted.

The permissions that the operator needs, in the namespaces that it watches (the chart's Role or ClusterRole):

| group               | resource                | verbs                                   | why                        |
| ------------------- | ----------------------- | --------------------------------------- | -------------------------- |
| neuronmodel.dev     | neuronmodels            | get, list, watch, patch                 | patch: our finalizer       |
| neuronmodel.dev     | neuronmodels/status     | patch                                   |                            |
| neuronmodel.dev     | neuronmodels/finalizers | update                                  | children block their owner |
| apps                | deployments             | get, list, watch, create, patch, delete | apply is create and patch  |
| apps                | replicasets             | list, watch                             | whose pods; their Events   |
| batch               | jobs                    | get, list, watch, create, delete        | made once, never patched   |
| core                | services                | get, list, watch, create, patch, delete | apply                      |
| core                | persistentvolumeclaims  | get, list, watch, create, patch, delete | users' own are only read   |
| core                | pods                    | list, watch                             | only read                  |
| core                | events                  | get, list, create, patch                | refusals; our own          |
| core                | namespaces              | get                                     | is it terminating          |
| coordination.k8s.io | leases                  | get, create, update                     | one operator a namespace   |

No Secrets, no Nodes, no PersistentVolumes, no CustomResourceDefinitions (kopf's scanning is off), no wildcards.
`neuronmodels/finalizers` is needed only where OwnerReferencesPermissionEnforcement is enabled. A test runs the operator
with exactly these permissions, and `permissions` checks whether they are granted, which every account may do.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Final, Protocol

import aiohttp
import kopf
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.resource import Resource

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.state.plan import ObjectRef

REQUEST_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 35.0
"""An admission webhook may take 30 s; a write that is abandoned sooner would be retried forever."""
PROMPT_SECONDS: Final = 1.0
"""An answer that took longer does not say what time it is."""
MAX_CONNECTIONS: Final = 64
MAX_CHILD_WRITES: Final = 32
"""Writes to children at the same time: those that a webhook delays leave connections for everything else."""
WAIT_SECONDS: Final = 3.0
WATCH_GRACE_SECONDS: Final = 15.0
"""How long after a watch should have ended its connection is given up."""

MERGE_PATCH: Final = "application/merge-patch+json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_OF_A_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_log = logging.getLogger(__name__)

Object = dict[str, Any]
CountCall = Callable[[str, str, int], None]
"""Called with verb, kind and HTTP status (0 if there was no answer)."""
TellTime = Callable[[datetime], None]
"""Called with the API server's time, to the second, at the moment of an answer."""


@dataclass(frozen=True)
class Kind:
    """An API resource, listed here so that nothing has to be discovered."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


MODEL: Final = Kind(names.GROUP, names.VERSION, names.KIND, names.PLURAL)
DEPLOYMENT: Final = Kind("apps", "v1", "Deployment", "deployments")
REPLICA_SET: Final = Kind("apps", "v1", "ReplicaSet", "replicasets")
JOB: Final = Kind("batch", "v1", "Job", "jobs")
SERVICE: Final = Kind("", "v1", "Service", "services")
CLAIM: Final = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD: Final = Kind("", "v1", "Pod", "pods")
EVENT: Final = Kind("", "v1", "Event", "events")
NAMESPACE: Final = Kind("", "v1", "Namespace", "namespaces")
LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")
RULES_REVIEW: Final = Kind("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
ACCESS_REVIEW: Final = Kind("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")

_BY_NAME: Final = {(kind.api_version, kind.kind): kind for kind in (DEPLOYMENT, JOB, SERVICE, CLAIM, POD)}


def kind_of(api_version: str, kind: str) -> Kind:
    """Returns the kind of a manifest. Raises ValueError for one that the operator does not manage."""
    found = _BY_NAME.get((api_version, kind))
    if found is None:
        raise ValueError(f"the operator does not write objects of kind {kind} ({api_version})")
    return found


class ApiError(Exception):
    """An error that the API server returned, or the lack of an answer (status 0)."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None = None,
        causes: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """The Status object's reason: AlreadyExists, Forbidden, Invalid, …"""
        self.message = message
        self.retry_after = retry_after
        """In seconds."""
        self.causes = causes
        """Reasons among the Status object's details, such as NamespaceTerminating."""

    @property
    def is_outdated(self) -> bool:
        """Whether a write was rejected because it was based on an older version of the object."""
        return self.status == 409 and "the object has been modified" in self.message


def is_older(version: str, than: str) -> bool:
    """Compares resource versions, which are numbers of one counter in every API server that there is; of others nothing
    is known."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


class ReadsAndWrites(Protocol):
    """What passes need of an `Api`. Every method raises ApiError."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None: ...

    async def get_live(self, kind: Kind, namespace: str | None, name: str) -> Object | None: ...

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[Object, ...]: ...

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Object: ...

    async def apply(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object: ...

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str | None = None
    ) -> Object: ...

    async def delete(self, kind: Kind, namespace: str | None, ref: ObjectRef) -> None: ...


@dataclass(frozen=True)
class Page:
    """A part of a list."""

    items: tuple[Object, ...]
    version: str
    """The resource version of the list."""
    rest: str = ""
    """A token for the next part; empty for the last one."""


class Api:
    """Reads and writes of namespaced objects (and namespaces). Every method raises ApiError."""

    def __init__(
        self,
        client: ApiClient,
        count: CountCall = lambda verb, kind, status: None,
        tell_time: TellTime = lambda server_time: None,
    ) -> None:
        self._dynamic = DynamicClient(client)
        self._count = count
        self._tell_time = tell_time
        self._child_writes = asyncio.Semaphore(MAX_CHILD_WRITES)
        self.server: str = client.configuration.host

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Returns None if the object does not exist."""
        try:
            return await self._call("get", kind, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def get_live(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """As `get`, which others answer from what they remember."""
        return await self.get(kind, namespace, name)

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        limit: int | None = None,
    ) -> tuple[Object, ...]:
        answer = await self._call("list", kind, namespace, label_selector=labels, field_selector=fields, limit=limit)
        # The items of a list have neither field.
        return tuple(item | {"apiVersion": kind.api_version, "kind": kind.kind} for item in answer["items"])

    async def list_page(
        self, kind: Kind, namespace: str | None, labels: str, limit: int, rest: str, *, metadata_only: bool = False
    ) -> Page:
        """Returns a part of a list, which `rest` of the part before continues."""
        answer = await self._call(
            "list",
            kind,
            namespace,
            label_selector=labels or None,
            limit=limit,
            _continue=rest or None,
            header_params={"Accept": METADATA_OF_A_LIST} if metadata_only else {},
        )
        meta = answer["metadata"]
        return Page(tuple(answer["items"] or ()), meta["resourceVersion"], meta.get("continue") or "")

    async def watch(
        self, kind: Kind, namespace: str | None, labels: str, version: str, seconds: int
    ) -> AsyncIterator[Object]:
        """Yields the events after a version, bookmarks among them, until the API server ends the watch."""
        path, status = _resource(kind).path(namespace=namespace), 0
        try:
            response = await self._dynamic.request(
                "get",
                path,
                serialize=False,
                watch=True,
                label_selector=labels or None,
                resource_version=version,
                timeout_seconds=seconds,
                query_params=[("allowWatchBookmarks", "true")],
                _request_timeout=seconds + WATCH_GRACE_SECONDS,
            )
            status = response.status
            async for line in _lines(response.content):
                event: Object = json.loads(line)
                _drop_managed_fields(event["object"])
                yield event
        except ApiException as error:
            status = error.status or 0
            raise _translate(error) from None
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            what = f"{type(error).__name__} {error}".strip()
            raise ApiError(0, Reason.NO_ANSWER, f"the watch of {kind.plural} broke off: {what}") from error
        finally:
            self._count("watch", kind.kind, status)

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Object:
        return await self._call("create", kind, namespace, body=dict(manifest), field_manager=names.FIELD_MANAGER)

    async def apply(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object:
        """Applies the manifest by server-side apply and returns the object."""
        return await self._call(
            "apply",
            kind,
            namespace,
            manifest["metadata"]["name"],
            body=dict(manifest),
            field_manager=names.FIELD_MANAGER,
            force_conflicts=True,
            content_type="application/apply-patch+yaml",
        )

    async def replace(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object:
        """Replaces the whole object and returns it. The error has status 409 if the manifest was not based on its
        current version."""
        return await self._call(
            "replace",
            kind,
            namespace,
            manifest["metadata"]["name"],
            body=dict(manifest),
            field_manager=names.FIELD_MANAGER,
        )

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str | None = None
    ) -> Object:
        """Applies a JSON merge patch (null removes a field, lists are replaced as a whole) and returns the object."""
        return await self._call(
            "patch",
            kind,
            namespace,
            name,
            subresource=subresource,
            body=dict(patch),
            content_type=MERGE_PATCH,
            field_manager=names.FIELD_MANAGER,
        )

    async def delete(self, kind: Kind, namespace: str | None, ref: ObjectRef) -> None:
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": ref.propagation,
            "preconditions": {"uid": ref.uid},
        }
        await self._call("delete", kind, namespace, ref.name, body=options)

    async def _call(
        self,
        verb: str,
        kind: Kind,
        namespace: str | None,
        name: str | None = None,
        *,
        subresource: str | None = None,
        **params: Any,
    ) -> Object:
        if verb in _READS:
            return await self._ask(verb, kind, namespace, name, subresource, REQUEST_SECONDS, **params)
        async with self._child_writes if kind in _BY_NAME.values() else nullcontext():
            return await self._ask(verb, kind, namespace, name, subresource, WRITE_SECONDS, **params)

    async def _ask(
        self,
        verb: str,
        kind: Kind,
        namespace: str | None,
        name: str | None,
        subresource: str | None,
        seconds: float,
        **params: Any,
    ) -> Object:
        status, began = 0, monotonic()
        try:
            path = _resource(kind).path(name=name, namespace=namespace) + (f"/{subresource}" if subresource else "")
            response = await self._dynamic.request(
                _METHODS[verb], path, serialize=False, _request_timeout=seconds, **params
            )
            status = response.status
            if monotonic() - began < PROMPT_SECONDS:
                self._read_time(response.headers)
            answer: Object = await response.json()
            _drop_managed_fields(answer)
            return answer
        except ApiException as error:
            status = error.status or 0
            raise _translate(error) from None
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            what = f"{type(error).__name__} {error}".strip()
            raise ApiError(
                0, Reason.NO_ANSWER, f"the API server did not answer to {verb} {kind.kind}: {what}"
            ) from error
        finally:
            self._count(verb, kind.kind, status)

    def _read_time(self, headers: Mapping[str, str]) -> None:
        with suppress(KeyError, ValueError):
            self._tell_time(parsedate_to_datetime(headers["Date"]))


@asynccontextmanager
async def connect(
    count: CountCall,
    tell_time: TellTime = lambda server_time: None,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncIterator[Api]:
    """Connects with the pod's service account, or outside of a pod with KUBECONFIG or ~/.kube/config.
    `max_connections` 0: as many as are wanted."""
    configuration = Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = max_connections
    async with ApiClient(configuration=configuration) as client:
        yield Api(client, count, tell_time)


async def wait_for_models(api: Api, namespaces: Sequence[str], report: Callable[[str], None]) -> None:
    """Returns when the API server serves NeuronModels: kopf finds out once, at its start, which resources exist.

    One namespace of several in which they can be listed is enough. After each failed attempt `report` is called with a
    sentence that says why it failed.
    """
    while True:
        for namespace in namespaces or (None,):
            try:
                await api.list(MODEL, namespace, limit=1)
                return
            except ApiError as error:
                problem = error
        hint = f" Is the definition there (`kubectl get crd {MODEL.plural}.{MODEL.group}`)?"
        report(
            f"NeuronModels can't be listed: {problem.message.removesuffix('.')}.{hint if problem.status == 404 else ''}"
        )
        await asyncio.sleep(WAIT_SECONDS)


def kopf_session(server: str, settings: kopf.OperatorSettings, trace: aiohttp.TraceConfig) -> kopf.AiohttpSession:
    """Returns the session through which kopf watches, with the same account as ours. kopf asks for another when a token
    has expired."""
    info = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        raise kopf.LoginError("there is neither a service account nor a kubeconfig; set KUBECONFIG")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        trace_configs=[trace],
        middlewares=[_metadata_only],
        response_class=_ListAnswer,
    )
    return kopf.AiohttpSession(server=server, default_namespace=info.default_namespace, aiohttp_session=session)


class _ListAnswer(aiohttp.ClientResponse):
    """kopf goes through the items of a list; a list of metadata has null for none (Kubernetes 1.34)."""

    async def json(self, **options: Any) -> Any:
        found = await super().json(**options)
        if isinstance(found, dict) and "items" in found and found["items"] is None:
            return found | {"items": []}
        return found


async def _metadata_only(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """kopf says which NeuronModels there are and when they change; a pass reads them. So their metadata is enough."""
    if request.url.path.endswith(f"/{MODEL.plural}"):
        is_watch = request.url.query.get("watch") == "true"
        request.headers["Accept"] = METADATA if is_watch else METADATA_OF_A_LIST
    return await send(request)


def _drop_managed_fields(answer: Object) -> None:
    """Of an object or a list: nobody here reads who manages which field, which is half of an object."""
    for o in (answer, *(answer.get("items") or ())):
        (o.get("metadata") or {}).pop("managedFields", None)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines, however long."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line


_READS: Final = frozenset({"get", "list"})
_METHODS: Final = {
    "get": "get",
    "list": "get",
    "create": "post",
    "apply": "patch",
    "patch": "patch",
    "replace": "put",
    "delete": "delete",
}


def _resource(kind: Kind) -> Any:
    return Resource(
        prefix="apis" if kind.group else "api",
        group=kind.group,
        api_version=kind.version,
        kind=kind.kind,
        name=kind.plural,
        namespaced=kind is not NAMESPACE,
    )


def _translate(error: ApiException) -> ApiError:
    try:
        status = json.loads(error.body or "{}")
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    after = (error.headers or {}).get("Retry-After")
    return ApiError(
        error.status or 0,
        status.get("reason") or error.reason or "Unknown",
        status.get("message") or f"the API server answered {error.status} {error.reason}",
        float(after) if after and after.isdigit() else None,
        frozenset(cause.get("reason", "") for cause in (status.get("details") or {}).get("causes") or ()),
    )
