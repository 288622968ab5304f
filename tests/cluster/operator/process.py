"""The operator as a process that uses a real API server, with no more rights than `client` says that it needs."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import aiohttp
import yaml
from kubernetes.aio.config import kube_config

from neuronmodel_operator import clock
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind
from neuronmodel_operator.cluster.permissions import RIGHTS, Right, lacking
from neuronmodel_operator.main import main as operate
from tests.cluster.operator.conftest import delete
from tests.forked import ForkedProcess, preload
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS

ACCOUNT: Final = "operator"
ROLE: Final = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLE_BINDING: Final = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
CLUSTER_ROLE: Final = Kind(ROLE.group, ROLE.version, "ClusterRole", "clusterroles")
CLUSTER_ROLE_BINDING: Final = Kind(ROLE.group, ROLE.version, "ClusterRoleBinding", "clusterrolebindings")
ACCESS_REVIEW: Final = Kind("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews")
SERVICE_ACCOUNT: Final = Kind("", "v1", "ServiceAccount", "serviceaccounts")
SECRET: Final = Kind("", "v1", "Secret", "secrets")

preload("neuronmodel_operator.main")
TASK_COUNTS: Final = "TESTS_TASK_COUNTS"
"""A variable that names a file: an operator that is forked writes there how many tasks it has, at each SIGUSR1."""
CLOCK_OFFSET: Final = "TESTS_CLOCK_OFFSET"
"""A variable: by how many seconds the clock of an operator that is forked is ahead."""

Rules = list[dict[str, Any]]
T = TypeVar("T")


def documented_rules() -> Rules:
    """The table in the docstring of `client`, as the rules of a Role."""
    lines = [line for line in (client.__doc__ or "").splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        {"apiGroups": ["" if group == "core" else group], "resources": [resource], "verbs": verbs.split(", ")}
        for group, resource, verbs, _ in rows
    ]


async def make_account(api: Api, namespace: str, kubeconfig: Path, path: Path) -> None:
    """Writes to `path` a kubeconfig of a new service account, which has those rights in the namespace."""
    await make_account_without_rights(api, namespace, kubeconfig, path)
    await grant(api, namespace, namespace, documented_rules())


async def make_account_without_rights(api: Api, namespace: str, kubeconfig: Path, path: Path) -> None:
    await api.create(SERVICE_ACCOUNT, namespace, {"metadata": {"name": ACCOUNT}})
    meta = {"name": "token", "annotations": {"kubernetes.io/service-account.name": ACCOUNT}}
    await api.create(SECRET, namespace, {"metadata": meta, "type": "kubernetes.io/service-account-token"})

    async def token() -> str | None:
        secret = await api.get(SECRET, namespace, "token") or {}
        found: str | None = secret.get("data", {}).get("token")
        return found

    bearer = base64.b64decode(await until(token)).decode()
    write_kubeconfig(kubeconfig, bearer, path)


def user_name(home: str) -> str:
    """The name by which the API server knows the service account of the namespace `home`."""
    return f"system:serviceaccount:{home}:{ACCOUNT}"


async def grant(api: Api, namespace: str, home: str, rules: Rules) -> None:
    """To the service account of the namespace `home`, which has none there."""
    about = {"metadata": {"name": ACCOUNT}}
    await api.create(ROLE, namespace, about | {"rules": rules})
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}
    role = {"apiGroup": ROLE.group, "kind": "Role", "name": ACCOUNT}
    await api.create(ROLE_BINDING, namespace, about | {"subjects": [subject], "roleRef": role})
    await _until_in_force(api, namespace, home, rules)


async def grant_instead(api: Api, namespace: str, home: str, rules: Rules) -> None:
    """Instead of what was granted there."""
    await api.merge(ROLE, namespace, ACCOUNT, {"rules": rules})
    await _until_in_force(api, namespace, home, rules)


async def revoke(api: Api, namespace: str, home: str) -> None:
    """All that was granted there."""
    for kind in (ROLE_BINDING, ROLE):
        found = await api.get(kind, namespace, ACCOUNT)
        assert found is not None
        await delete(api, kind, found)
    await _until_in_force(api, namespace, home, [])


async def _until_in_force(api: Api, namespace: str, home: str, rules: Rules) -> None:
    """The API server answers a change of rights before it decides by it: it learns of them by a watch of its own."""
    user, missing = user_name(home), lacking(rules)

    async def is_allowed(right: Right) -> bool:
        spec = {"user": user, "resourceAttributes": right.attributes | {"namespace": namespace}}
        return bool((await api.create(ACCESS_REVIEW, None, {"spec": spec}))["status"]["allowed"])

    async def is_in_force() -> bool:
        allowed = await asyncio.gather(*map(is_allowed, RIGHTS))
        return allowed == [right not in missing for right in RIGHTS]

    await until(is_in_force, what=f"what {user} may do in {namespace}")


def write_kubeconfig(kubeconfig: Path, token: str, path: Path) -> None:
    """The same cluster, another user."""
    content = yaml.safe_load(kubeconfig.read_text())
    context = next(c["context"] for c in content["contexts"] if c["name"] == content["current-context"])
    content["users"] = [{"name": context["user"], "user": {"token": token}}]
    path.write_text(yaml.safe_dump(content))


async def grant_everywhere(api: Api, home: str) -> tuple[tuple[Kind, dict[str, Any]], ...]:
    """Gives the documented rights in all namespaces to the service account of the namespace `home`. Returns what is to
    be deleted with it, in no namespace."""
    about = {"metadata": {"name": f"{home}-{ACCOUNT}"}}
    role = await api.create(CLUSTER_ROLE, None, about | {"rules": documented_rules()})
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}
    of = {"apiGroup": CLUSTER_ROLE.group, "kind": CLUSTER_ROLE.kind, "name": about["metadata"]["name"]}
    binding = await api.create(CLUSTER_ROLE_BINDING, None, about | {"subjects": [subject], "roleRef": of})
    return (CLUSTER_ROLE, role), (CLUSTER_ROLE_BINDING, binding)


class OperatorProcess:
    """Started and ended by a test, as kubelets do. With `forks` it is there at once, as what it imports is."""

    def __init__(
        self,
        namespaces: Sequence[str],
        kubeconfig: Path,
        log: Path,
        release: str = "tests/operator",
        *,
        forks: bool = False,
        clock_offset: float = 0.0,
    ) -> None:
        self._forks = forks
        self.port = free_port()
        self.identity = f"tests/{self.port}"
        """Of the pod, as it were: a process that is started again goes on with what it held."""
        self._log = log
        self._task_counts = log.with_suffix(".tasks")
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "NEURONMODEL_WATCH_NAMESPACES": ",".join(namespaces),
            "NEURONMODEL_HEALTH_PORT": str(self.port),
            "NEURONMODEL_LOG_FORMAT": "json",
            "NEURONMODEL_IDENTITY": self.identity,
            "NEURONMODEL_RELEASE": release,
            TASK_COUNTS: str(self._task_counts),
            CLOCK_OFFSET: str(clock_offset),
        }
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def start(self) -> None:
        if self._forks:
            self._process = ForkedProcess(_operate, (), self._environment, self._log)
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "neuronmodel_operator"], env=self._environment, stderr=log, stdout=log
            )

    def end(self, how: signal.Signals) -> int:
        """Its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(timeout=PATIENCE_SECONDS)

    def kill_if_alive(self) -> None:
        if self.is_alive:
            self.end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def count_tasks(self) -> list[int]:
        """Asks for another count, and returns those that were written before. Only of one that forks."""
        os.kill(self.pid, signal.SIGUSR1)
        return [int(line) for line in self._task_counts.read_text().split()] if self._task_counts.exists() else []

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def messages(self, fragment: str) -> list[str]:
        """Of the log, with that in it."""
        whole_lines = self._log.read_text().rpartition("\n")[0].split("\n")
        return [json.loads(line)["message"] for line in whole_lines if fragment in line]


def shift_clock(offset: timedelta) -> None:
    """Of this process alone, as far as the operator reads it."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + offset

    vars(clock)["datetime"] = Shifted


def _operate() -> int:
    if seconds := float(os.environ.get(CLOCK_OFFSET, "0")):
        shift_clock(timedelta(seconds=seconds))
    if counts := os.environ.get(TASK_COUNTS):
        signal.signal(signal.SIGUSR1, lambda *_: _append_line(Path(counts), str(len(asyncio.all_tasks()))))
    # What the client read from the environment when it was imported.
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
    operate()
    return 0


def _append_line(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


async def until(condition: Callable[[], Awaitable[T | None]], poll: float = 0.05, what: str = "so") -> T:
    """What the condition gives as soon as it gives something. `what` it stands for, a failure says."""
    end = monotonic() + PATIENCE_SECONDS
    while not (found := await condition()):
        assert monotonic() < end, f"still not {what} after {PATIENCE_SECONDS:.0f} s"
        await asyncio.sleep(poll)
    return found


async def fetch(operator: OperatorProcess, path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{operator.port}/{path}", raise_for_status=True) as response,
    ):
        return await response.text()


async def is_healthy(operator: OperatorProcess) -> bool:
    try:
        return await fetch(operator, "healthz") == "ok\n"
    except aiohttp.ClientError:
        return False


async def readyz(operator: OperatorProcess) -> tuple[int, str]:
    """0: it does not answer."""
    url = f"http://127.0.0.1:{operator.port}/readyz"
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()
    except aiohttp.ClientError:
        return 0, ""


async def complaint(operator: OperatorProcess, of: str) -> str | None:
    """Why it is not ready, with that in it."""
    status, text = await readyz(operator)
    return text if status == 503 and of in text else None
