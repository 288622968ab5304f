"""What is rendered, to the letter. `REWRITE_GOLDEN=1 pytest` rewrites the files; read the difference."""

import os
from dataclasses import replace
from typing import Any

import pytest
import yaml

from neuronmodel_api.report import Sizing
from neuronmodel_api.sources import S3, HuggingFace
from neuronmodel_operator.settings import SourceSettings
from tests.builders import NeuronModelBuilder, neuron_model
from tests.paths import MANIFESTS
from tests.unit.operator.simulated import SETTINGS, Cluster, Run

LLAMA_405B = (
    neuron_model("llama-405b")
    .on_neuron()
    .with_degree(64)
    .with_source_claim("models", "Llama-3.1-405B-Instruct")
    .with_strategy("ShardOnCompile")
    .with_artifacts_template("2Ti", storageClassName="nvme")
    .with_compile(
        torchDtype="bfloat16",
        batchSize=1,
        maxContextLength=2048,
        sequenceLength=2048,
        fusedQKV=True,
        sequenceParallel=True,
        qkvKernel=True,
        attentionKernel=True,
        mlpKernel=True,
        ccPipelineTilingFactor=1,
        onDeviceSampling={"doSample": False, "topK": 1, "topP": "1.0", "temperature": "1.0", "topKKernel": False},
        padTokenID=2,
    )
)
HUB_405B = (
    LLAMA_405B.with_source_repository(
        "meta-llama/Llama-3.1-405B-Instruct",
        revision="main",
        tokenSecretRef={"name": "hugging-face", "key": "token"},
        endpoint="https://hub.example.com",
        caBundle={"configMapKeyRef": {"name": "authorities", "key": "ca.crt"}},
    )
    .with_strategy("ShardOnLoad")
    .with_serving(apiKeySecretRef={"name": "keys", "key": "api"})
)
S3_405B = LLAMA_405B.with_source_bucket(
    "s3://models/llama-3.1-405b",
    region="eu-central-1",
    endpoint="https://s3.example.com",
    credentialsSecretRef={"name": "s3", "sessionTokenKey": "token"},
    requesterPays=True,
    caBundle={"secretKeyRef": {"name": "authorities", "key": "ca.crt"}},
).with_strategy("ShardOnLoad")
VLLM_405B = LLAMA_405B.with_strategy("ShardOnLoad").with_serving(server="VLLM")
SIZING_405B = Sizing(
    host_memory_bytes=891_014_905_600,
    shared_memory_bytes=2 << 30,
    scratch_bytes=16 << 30,
    rank_bytes=13_615_923_708,
    cache_bytes=132_120_576,
    reserve_bytes=1_811_939_328,
    core_bytes=24 << 30,
)
"""Of Llama 3.1 405B with ShardOnLoad and vLLM, as the worker works it out from the checkpoint's headers: 871 GB are
the ranks' own."""
CLAIMS_DEVICES = (
    neuron_model("claims")
    .on_neuron()
    .with_degree(4)
    .with_strategy("ShardOnCompile")
    .with_weights("Native")
    .with_artifacts_claim("store")
    .with_worker(
        nodeSelector={"node.kubernetes.io/instance-type": "trn2.3xlarge"},
        resourceClaims=[{"name": "devices", "resourceClaimTemplateName": "neuron-3xlarge"}],
    )
    .with_serving(startTimeoutSeconds=600)
)
OVERRIDDEN = (
    neuron_model("custom")
    .on_neuron()
    .with_degree(8)
    .with_source_host_path("/data/models/llama")
    .with_artifacts_claim("store")
    .with_flag("async_mode", True)
    .with_field("spec.scratch.ephemeral", {"size": "1Ti", "storageClassName": "nvme"})
    .with_field("spec.prepare", {"nodeSelector": {"pool": "build"}, "resources": {"requests": {"cpu": "64"}}})
    .with_worker(
        image="registry.example/worker:2",
        imagePullPolicy="Always",
        imagePullSecrets=[{"name": "pull"}],
        resources={"limits": {"memory": "256Gi"}, "requests": {"cpu": "16"}},
        nodeSelector={"node.kubernetes.io/instance-type": "trn2.3xlarge"},
        tolerations=[{"key": "aws.amazon.com/neuron", "operator": "Equal", "value": "x", "effect": "NoSchedule"}],
        affinity={"nodeAffinity": {}},
        topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        schedulerName="neuron-scheduler",
        priorityClassName="high",
        serviceAccountName="loader",
        env=[{"name": "NEURON_RT_EXEC_TIMEOUT", "value": "900"}, {"name": "MINE", "value": "1"}],
        volumes=[{"name": "extra", "emptyDir": {}}],
        volumeMounts=[{"name": "extra", "mountPath": "/extra"}],
        podLabels={"team": "serving"},
        podAnnotations={"note": "hello"},
        terminationGracePeriodSeconds=120,
    )
    .with_serving(port=9000, replicas=2, updateStrategy="Rolling", apiKeySecretRef={"name": "keys", "key": "token"})
)
CPU = neuron_model("smol").on_cpu().with_degree(3).with_source_claim("models", "SmolLM2-135M-Instruct")


@pytest.mark.parametrize(
    ("name", "builder", "sizing"),
    [
        ("cpu", CPU, None),
        ("neuron-405b", LLAMA_405B, None),
        ("neuron-405b-hub", HUB_405B, None),
        ("neuron-405b-s3", S3_405B, None),
        ("neuron-405b-vllm", VLLM_405B, SIZING_405B),
        ("neuron-claims", CLAIMS_DEVICES, None),
        ("overridden", OVERRIDDEN, None),
    ],
)
def test_manifests_are_as_they_were_read_and_found_right(
    name: str, builder: NeuronModelBuilder, sizing: Sizing | None
) -> None:
    rendered = yaml.safe_dump_all(manifests(builder, sizing=sizing), sort_keys=True, width=120)
    golden = MANIFESTS / f"{name}.yaml"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def manifests(builder: NeuronModelBuilder, *claims: str, sizing: Sizing | None = None) -> list[dict[str, Any]]:
    """Everything that is made on the way to Ready."""
    cluster = Cluster.of(builder.build())
    cluster.prepare = lambda config: Run(sizing=sizing)
    for claim in ("store", *claims):
        cluster.add_claim(claim, "ReadWriteMany")
    cluster.settings = replace(
        SETTINGS,
        allow_host_path=True,
        sources={
            HuggingFace: SourceSettings(("https://hub.example.com",)),
            S3: SourceSettings(("https://s3.example.com",)),
        },
        proxy={"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".cluster.local"},
    )
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(20):
        plan = cluster.reconcile()
        for manifest in (*plan.apply, *plan.create):
            found.setdefault((manifest["kind"], manifest["metadata"]["name"]), manifest)
        cluster.step()
    assert cluster.reason() == ("True", "Serving")
    return [found[key] for key in sorted(found)]
