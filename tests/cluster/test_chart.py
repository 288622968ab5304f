"""The chart as it renders and as the API server sees it; nothing is installed here, the end-to-end tests do that."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from neuronmodel_api.sources import NETWORK_SOURCES, S3, HuggingFace
from neuronmodel_operator import probe
from neuronmodel_operator.cluster.lease_record import DURATION_SECONDS, Holder, taken
from neuronmodel_operator.cluster.permissions import RIGHTS
from neuronmodel_operator.settings import Settings
from tests.cluster.conftest import Kubectl, wait_until
from tests.crd import CRD_FILE, schema_of, walk
from tests.paths import PROJECT

CHART: Final = PROJECT / "charts" / "neuronmodel"
GOLDEN: Final = PROJECT / "tests" / "golden" / "chart"
AGAINST_HTTP: Final = "!self.startsWith('http://')"
IMAGE: Final = "image.repository=registry.example.com/neuronmodel/operator"

SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "watch-namespaces": ("watchNamespaces={team-a,team-b}", "aggregateToUserRoles=false"),
    "allow-host-path": ("allowHostPath=true", "workerImages.cpu=registry.example.com/neuronmodel/worker:1"),
    "sources": (
        "sources.allowHTTP=true",
        "sources.huggingFace.endpoints={https://huggingface.co,http://hub.example.com:8080/mirror}",
        "sources.huggingFace.revisionCheckSeconds=2592000",
        "sources.s3.endpoints={https://s3.amazonaws.com,https://minio.example.com}",
        "sources.s3.revisionCheckSeconds=60",
        "sources.proxy.https=http://proxy.example.com:3128",
        r"sources.proxy.noProxy=.svc\,10.0.0.0/8",
    ),
    "monitoring": (
        "watchNamespaces={team-a,team-b}",
        "metrics.serviceMonitor.enabled=true",
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.interval=15s",
        "metrics.prometheusRule.enabled=true",
        "metrics.prometheusRule.labels.release=prometheus",
        "metrics.prometheusRule.runbookURL=https://wiki.example.com/neuronmodel",
        "metrics.dashboard.enabled=true",
    ),
    "service-monitor": ("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.labels.release=prometheus"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_chart_renders_what_was_looked_over(kubectl: Kubectl, name: str) -> None:
    """With UPDATE_GOLDEN=1 the files are rewritten, to be reviewed in the diff."""
    rendered = render(kubectl, *SETTINGS[name], "crds.install=false")
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_helm_finds_nothing_to_complain_about(kubectl: Kubectl) -> None:
    assert "0 chart(s) failed" in kubectl.helm("lint", "--strict", str(CHART), "--set", IMAGE)


def test_the_chart_brings_the_definition_unless_that_is_switched_off(kubectl: Kubectl) -> None:
    rendered = objects(render(kubectl))
    assert [o for o in rendered if o["kind"] == "CustomResourceDefinition"] == [yaml.safe_load(CRD_FILE.read_text())]
    assert "CustomResourceDefinition" not in render(kubectl, "crds.install=false")


def rules_of_the_endpoint(definition: dict[str, Any], source: str) -> list[str]:
    schema = next(node for path, node in walk(schema_of(definition)) if path.endswith(f".{source}.endpoint"))
    return [each["rule"] for each in schema["x-kubernetes-validations"]]


def test_where_http_is_allowed_the_definition_lets_it_pass_and_is_the_same_otherwise(kubectl: Kubectl) -> None:
    rendered = render(kubectl, "sources.allowHTTP=true")
    (definition,) = (o for o in objects(rendered) if o["kind"] == "CustomResourceDefinition")
    usual = yaml.safe_load(CRD_FILE.read_text())
    for source in (kind.member() for kind in NETWORK_SOURCES):
        before, after = rules_of_the_endpoint(usual, source), rules_of_the_endpoint(definition, source)
        assert [(b, a) for b, a in zip(before, after, strict=True) if b != a] == [(AGAINST_HTTP, "true")]
    assert json.dumps(definition).count('"true"') == json.dumps(usual).count('"true"') + len(NETWORK_SOURCES)
    assert json.loads(json.dumps(definition).replace('"rule": "true"', f'"rule": "{AGAINST_HTTP}"')) == usual
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f-", stdin=json.dumps(definition))


@pytest.mark.parametrize(
    ("in_the_file", "renders"),
    [
        ([f'"{AGAINST_HTTP}"'] * len(NETWORK_SOURCES), True),
        ([f'"{AGAINST_HTTP}"'] * (len(NETWORK_SOURCES) - 1) + [AGAINST_HTTP.removeprefix("!")], False),
        ([f'"{AGAINST_HTTP}"'] * (len(NETWORK_SOURCES) + 1), False),
    ],
    ids=["other quotation marks", "another rule", "one too many"],
)
def test_a_definition_in_which_http_cannot_be_allowed_is_refused(
    kubectl: Kubectl, tmp_path: Path, in_the_file: list[str], renders: bool
) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    rules = "".join(f"  - rule: {rule}\n" for rule in in_the_file)
    (chart / "files" / "neuronmodels.yaml").write_text(f"kind: Any\nrules:\n{rules}")
    tried = kubectl.attempt("helm", "template", "n", str(chart), "--set", IMAGE, "--set", "sources.allowHTTP=true")
    assert (tried.returncode == 0) == renders
    damaged = f"has not the {len(NETWORK_SOURCES)} rules against http://"
    assert ('- rule: "true"\n' if renders else damaged) in tried.stdout + tried.stderr


def test_the_definition_outlives_the_release(kubectl: Kubectl) -> None:
    (definition,) = (o for o in objects(render(kubectl)) if o["kind"] == "CustomResourceDefinition")
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize("name", ["default", "allow-host-path"])
def test_the_api_server_takes_what_the_chart_renders(kubectl: Kubectl, namespace: str, name: str) -> None:
    rendered = render(kubectl, *SETTINGS[name], "crds.install=false", namespace=namespace)
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f-", stdin=rendered)


def test_the_api_server_takes_roles_in_single_namespaces(kubectl: Kubectl, namespace: str) -> None:
    rendered = render(kubectl, f"watchNamespaces={{{namespace}}}", "crds.install=false", namespace=namespace)
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f-", stdin=rendered)


def test_the_operator_s_pod_is_let_into_a_namespace_of_the_restricted_standard(
    kubectl: Kubectl, namespace: str
) -> None:
    kubectl("label", "--overwrite", f"namespace/{namespace}", "pod-security.kubernetes.io/enforce=restricted")
    pod = operator_pod(render(kubectl, "crds.install=false"))
    # An account that is there already; everything else is as rendered.
    pod["serviceAccountName"] = "default"
    create = ("kubectl", "create", "--dry-run=server", f"--namespace={namespace}", "-f-")
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator"}, "spec": pod}
    wait_until(lambda: kubectl.attempt(*create, stdin=json.dumps(manifest)).returncode == 0, "the pod to be accepted")
    pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert "PodSecurity" in kubectl.attempt(*create, stdin=json.dumps(manifest)).stderr


def settings_of(rendered: str) -> Settings:
    env = operator_pod(rendered)["containers"][0]["env"]
    return Settings.from_environment({each["name"]: each["value"] for each in env if "value" in each})


def test_by_default_the_chart_sets_what_the_operator_does_without_it(kubectl: Kubectl) -> None:
    usual, settings = Settings(), settings_of(render(kubectl))
    for name in ("allow_http", "sources", "proxy"):
        assert getattr(settings, name) == getattr(usual, name)


def test_the_operator_understands_what_the_chart_sets_of_sources(kubectl: Kubectl) -> None:
    settings = settings_of(render(kubectl, *SETTINGS["sources"]))
    assert settings.allow_http
    assert settings.sources[HuggingFace].endpoints == ("https://huggingface.co", "http://hub.example.com:8080/mirror")
    assert settings.sources[HuggingFace].check_seconds == 2_592_000
    assert settings.sources[S3].endpoints == ("https://s3.amazonaws.com", "https://minio.example.com")
    assert settings.sources[S3].check_seconds == 60
    assert settings.proxy == {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".svc,10.0.0.0/8"}
    never = render(
        kubectl, "sources.huggingFace.revisionCheckSeconds=0", "sources.proxy.http=https://proxy.example.com"
    )
    assert settings_of(never).sources[HuggingFace].check_seconds is None
    assert settings_of(never).proxy == {"HTTP_PROXY": "https://proxy.example.com"}


def test_the_operator_understands_what_the_chart_sets(kubectl: Kubectl) -> None:
    values = (
        "watchNamespaces={team-a,team-b}",
        "allowHostPath=true",
        "workerImages.cpu=cpu:1",
        "workerImages.neuron=n:1",
    )
    container = operator_pod(render(kubectl, *values))["containers"][0]
    settings = Settings.from_environment({each["name"]: each["value"] for each in container["env"] if "value" in each})
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert settings.allow_host_path
    assert {engine.value: image for engine, image in settings.worker_images.items()} == {
        "CPU": "cpu:1",
        "Neuron": "n:1",
    }
    assert settings.health_port == container["ports"][0]["containerPort"]
    assert settings.identity == "neuronmodel-system/$(POD_NAME)"
    assert settings.release == "neuronmodel-system/neuronmodel"


@pytest.mark.parametrize("name", SETTINGS)
def test_no_right_is_a_wildcard_and_no_secret_can_be_read(kubectl: Kubectl, name: str) -> None:
    rules = list(granted(objects(render(kubectl, *SETTINGS[name]))))
    assert rules
    for group, resource, verb in rules:
        assert "*" not in (group, resource, verb)
        assert resource != "secrets"
        assert (resource, verb) in {("pods", "list"), ("pods", "watch")} or resource != "pods"


def test_the_operator_has_the_rights_that_it_looks_for_and_no_other(kubectl: Kubectl) -> None:
    rendered = objects(render(kubectl, "aggregateToUserRoles=false"))
    assert set(granted(rendered)) == {(right.group, right.resource, right.verb) for right in RIGHTS}


def test_watched_namespaces_get_roles_and_the_cluster_none(kubectl: Kubectl) -> None:
    rendered = objects(render(kubectl, *SETTINGS["watch-namespaces"]))
    roles = {o["metadata"]["namespace"] for o in rendered if o["kind"] == "Role"}
    bound = {o["metadata"]["namespace"] for o in rendered if o["kind"] == "RoleBinding"}
    assert roles == bound == {"team-a", "team-b"}
    assert not [o for o in rendered if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("allowHostPth=true", "allowHostPth"),
        ("allowHostPath=perhaps", "/allowHostPath"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("watchNamespaces={Team_A}", "/watchNamespaces/0"),
        ("watchNamespaces=team-a", "--set 'watchNamespaces={a}'"),
        ("watchNamespaces=", "--set 'watchNamespaces={a}'"),
        ("watchNamespaces=true", "--set 'watchNamespaces={a}'"),
        ("watchNamespaces.team=a", "--set 'watchNamespaces={a}'"),
        ("sources.allowHttp=true", "allowHttp"),
        ("sources.allowHTTP=perhaps", "/sources/allowHTTP"),
        ("sources.huggingFace.endpoints=https://hub.example.com", "/sources/huggingFace/endpoints"),
        ("sources.huggingFace.endpoints={hub.example.com}", "/sources/huggingFace/endpoints/0"),
        ("sources.huggingFace.endpoints={https://me:secret@hub.example.com}", "/sources/huggingFace/endpoints/0"),
        ("sources.huggingFace.endpoints={https://hub.example.com?token=x}", "/sources/huggingFace/endpoints/0"),
        ("sources.huggingFace.endpoints={https://hub.example.com/#x}", "/sources/huggingFace/endpoints/0"),
        ("sources.huggingFace.endpoints={https://}", "/sources/huggingFace/endpoints/0"),
        ("sources.huggingFace.endpoints={https://a.example,https://a.example}", "/sources/huggingFace/endpoints"),
        ("sources.huggingFace.endpoints={http://hub.example.com}", "allow it with --set sources.allowHTTP=true"),
        ("sources.huggingFace.revisionCheckSeconds=59", "/sources/huggingFace/revisionCheckSeconds"),
        ("sources.huggingFace.revisionCheckSeconds=-1", "/sources/huggingFace/revisionCheckSeconds"),
        ("sources.huggingFace.revisionCheckSeconds=2592001", "/sources/huggingFace/revisionCheckSeconds"),
        ("sources.huggingFace.revisionCheckSeconds=60.5", "/sources/huggingFace/revisionCheckSeconds"),
        ("sources.s3.endpoints={s3.example.com}", "/sources/s3/endpoints/0"),
        ("sources.s3.endpoints={https://me:secret@s3.example.com}", "/sources/s3/endpoints/0"),
        ("sources.s3.endpoints={http://s3.example.com}", "allow it with --set sources.allowHTTP=true"),
        ("sources.s3.revisionCheckSeconds=59", "/sources/s3/revisionCheckSeconds"),
        ("sources.proxy.https=http://me:secret@proxy.example.com", "/sources/proxy/https"),
        ("sources.proxy.http=proxy.example.com:3128", "/sources/proxy/http"),
        ("sources.proxy.noProxy=me@internal", "/sources/proxy/noProxy"),
        ("logFormat=xml", "/logFormat"),
        ("image.repository=", "image.repository is empty: name where the operator's image was pushed to"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(kubectl: Kubectl, value: str, says: str) -> None:
    refused = kubectl.attempt("helm", "template", "neuronmodel", str(CHART), "--set", IMAGE, "--set", value)
    assert refused.returncode != 0
    assert says in refused.stderr


def test_in_an_upgrade_the_new_operator_comes_before_the_old_one_goes(kubectl: Kubectl) -> None:
    (deployment,) = (o for o in objects(render(kubectl)) if o["kind"] == "Deployment")
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert deployment["spec"]["strategy"] == rolling


def test_readiness_is_asked_for_by_a_command_whose_words_the_kubelet_tells(kubectl: Kubectl) -> None:
    container = operator_pod(render(kubectl))["containers"][0]
    assert container["readinessProbe"]["exec"]["command"][-1] == probe.__name__
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


OTHER: Final = Holder("team/other-9f", "team/other")
HOW: Final = "crds.install=false and namespaces of its own, as --set 'watchNamespaces={a,b}'"


def install(kubectl: Kubectl, namespace: str, *values: str) -> subprocess.CompletedProcess[str]:
    """As far as the API server's answer to what it would be asked."""
    settings = [argument for value in (IMAGE, *values) for argument in ("--set", value)]
    target = ("second", str(CHART), "--namespace", namespace, "--dry-run=server")
    return kubectl.attempt("helm", "install", *target, *settings)


def operate(kubectl: Kubectl, namespace: str, renewed_at: datetime) -> None:
    kubectl("apply", f"--namespace={namespace}", "-f-", stdin=json.dumps(taken(None, OTHER, renewed_at)))


def test_a_release_is_refused_where_another_one_works_with_instructions(kubectl: Kubectl, namespace: str) -> None:
    values = (f"watchNamespaces={{{namespace}}}", "crds.install=false")
    assert install(kubectl, namespace, *values).returncode == 0
    operate(kubectl, namespace, datetime.now(UTC))
    refused = install(kubectl, namespace, *values)
    assert refused.returncode != 0
    assert f"an operator of the release {OTHER.release} works in the namespace {namespace}" in refused.stderr
    assert HOW in refused.stderr
    assert kubectl.helm("template", "second", str(CHART), "--set", IMAGE, *(f"--set={value}" for value in values))
    long_ago = datetime.now(UTC) - timedelta(seconds=10 * DURATION_SECONDS)
    operate(kubectl, namespace, long_ago)
    assert install(kubectl, namespace, *values).returncode == 0, "whoever held it was killed"


def test_a_release_for_all_namespaces_is_refused_alongside_any_other_one(kubectl: Kubectl, namespace: str) -> None:
    labels = {"app.kubernetes.io/name": "neuronmodel-operator", "app.kubernetes.io/instance": "neuronmodel"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "operator", "image": "none"}]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "first", "namespace": namespace, "labels": labels},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod},
    }
    kubectl("apply", "-f-", stdin=json.dumps(deployment))
    refused = install(kubectl, namespace, "crds.install=false")
    assert "this operator would work in all namespaces, and the release neuronmodel" in refused.stderr
    assert HOW in refused.stderr
    assert install(kubectl, namespace, "crds.install=false", f"watchNamespaces={{{namespace}}}").returncode == 0
    kubectl("delete", "deployment/first", f"--namespace={namespace}")


def test_every_value_is_in_the_schema_and_explained(kubectl: Kubectl) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(leaves(values)) <= set(declared(schema, schema))


def render(kubectl: Kubectl, *values: str, namespace: str = "neuronmodel-system") -> str:
    settings = [argument for value in (IMAGE, *values) for argument in ("--set", value)]
    return kubectl.helm("template", "neuronmodel", str(CHART), "--namespace", namespace, *settings)


def objects(rendered: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(rendered) if each]


def operator_pod(rendered: str) -> dict[str, Any]:
    (deployment,) = (o for o in objects(rendered) if o["kind"] == "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def granted(rendered: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for role in rendered:
        for rule in role.get("rules", ()) if role["kind"] in ("Role", "ClusterRole") else ():
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    yield from ((group, resource, verb) for verb in rule["verbs"])


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict) and name not in ("requests", "limits"):
            yield from leaves(value, f"{path}{name}.")


def declared(schema: dict[str, Any], whole: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in schema.get("properties", {}).items():
        yield f"{path}{name}"
        referred = whole["definitions"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        yield from declared(referred, whole, f"{path}{name}.")


def test_the_golden_files_are_those_of_the_settings() -> None:
    assert {Path(path).stem for path in GOLDEN.glob("*.yaml")} == set(SETTINGS)
