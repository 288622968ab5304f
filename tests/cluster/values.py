"""For each bounded field of the hand-written spec: values that are taken, and values that are refused."""

from typing import Any, Final

NAME: Final = ["a", "models-2.x", "a" * 253], ["", "Models", "-a", "a_b", "a" * 254]
LABEL: Final = [{"k": ""}, {"k": "trn2.48xlarge"}], [{"k": "a b"}, {"k": "x" * 64}]
MODES: Final = [["ReadWriteOnce"], ["ReadWriteMany"]], [["ReadOnlyMany"], [], ["ReadWriteOnce", "ReadWriteOnce"]]
CLASS: Final = ["gp3"], ["x" * 254]
ABSOLUTE: Final = ["/", "/a"], ["", "/" + "a" * 1024]
SIZE: Final = ["1", "1.5Ti", "500G"], ["", "five", "1" * 33]
KEY: Final = ["token", "ca.crt", "a_b-c"], ["", "a/b", "a" * 254]
HUB: Final = "spec.model.source.huggingFace"
NUMBERS_UP_TO: Final = 2**24

VALUES: Final[dict[str, tuple[list[Any], list[Any]]]] = {
    "spec.model.source.persistentVolumeClaim.claimName": NAME,
    "spec.model.source.persistentVolumeClaim.path": (["", "a/b"], ["a" * 1025]),
    "spec.model.source.hostPath.path": ABSOLUTE,
    f"{HUB}.repository": (
        ["gpt2", "meta-llama/Llama-3.1-405B-Instruct", "a_b/c.d", "a" * 96 + "/" + "b" * 96],
        ["", "a/b/c", "a b/c", "/a", "a/", "-a/b", "a/.b", "a" * 97, "hf://a/b", "a--b/c", "a/b.", "a/b-", "a/b.git"],
    ),
    f"{HUB}.revision": (
        ["main", "v1.0+cu", "refs/pr/12", "f" * 40, "a" * 250],
        ["", "-a", "a b", "a..b", "a@b", "a?b", "a#b", "a" * 251],
    ),
    f"{HUB}.tokenSecretRef.name": NAME,
    f"{HUB}.tokenSecretRef.key": KEY,
    f"{HUB}.endpoint": (
        ["https://hub.example.com", "https://10.0.0.1:8443", "https://[fd00::1]:8443/a/b/"],
        [
            "",
            "hub.example.com",
            "ftp://hub.example.com",
            "https://",
            "https:///a",
            "https://a@b",
            "https://a:b@c",
            "https://a\\@b",
            "https://a b",
            "https://a\nb",
            "https://a?b=c",
            "https://a#b",
            "https://a/%2e%2e",
            "https://a:port",
            "http://a",
            "HTTPS://a@b",
            "https://" + "a" * 505,
        ],
    ),
    f"{HUB}.caBundle.configMapKeyRef.name": NAME,
    f"{HUB}.caBundle.configMapKeyRef.key": KEY,
    f"{HUB}.caBundle.secretKeyRef.name": NAME,
    f"{HUB}.caBundle.secretKeyRef.key": KEY,
    "spec.model.type": (["llama", "qwen3_moe"], ["", "Llama", "a b"]),
    "spec.model.servedName": (["meta/Llama-3.1"], ["", "two words", "x" * 254]),
    "spec.engine": (["Neuron", "CPU"], ["GPU", "cpu"]),
    "spec.parallelism.tensorParallelDegree": ([1, 512], [0, 513, "8"]),
    "spec.parallelism.logicalNeuronCoreConfig": ([1, 2], [0, 3]),
    "spec.parallelism.startRank": ([0, 511], [-1, 512]),
    "spec.parallelism.localRanks": ([1, 512], [0, 513]),
    "spec.compile.torchDtype": (["bfloat16", "float16", "float32"], ["BF16", "int8"]),
    "spec.compile.batchSize": ([1, 4096], [0, 4097]),
    "spec.compile.maxContextLength": ([1, NUMBERS_UP_TO], [0, NUMBERS_UP_TO + 1]),
    "spec.compile.sequenceLength": ([1, NUMBERS_UP_TO], [0, NUMBERS_UP_TO + 1]),
    "spec.compile.ccPipelineTilingFactor": ([1, 64], [0, 65]),
    "spec.compile.onDeviceSampling.topK": ([-1, 1, 2**20], [-2, 0, 2**20 + 1]),
    "spec.compile.onDeviceSampling.topP": (["1", "1.0", "0.95", ".5"], ["0", "0.0", "1.1", 0.5, "1e-3", "0.5 "]),
    "spec.compile.onDeviceSampling.temperature": (["1", "0.7", "12.5", ".1"], ["0", "0.0", "-1", 0.7, "1.", ""]),
    "spec.compile.onDeviceSampling.globalTopK": ([1, 2**20], [0, 2**20 + 1]),
    "spec.compile.padTokenID": ([0, NUMBERS_UP_TO], [-1, NUMBERS_UP_TO + 1]),
    "spec.compile.extra": (
        [[], [{"name": "target", "value": {"a": [1, None, "x"]}}], [{"name": "target", "value": None}]],
        [[{"name": f"n{i}"} for i in range(65)], [{"name": "twice"}, {"name": "twice"}], [{"value": 1}]],
    ),
    "spec.compile.extra[].name": (["k", "lm_head_pad", "a" * 64], ["", "--fused-qkv", "FILL IN modules", "a" * 65]),
    "spec.sharding.strategy": (["ShardOnCompile", "ShardOnLoad", "Auto"], ["auto", ""]),
    "spec.sharding.seal": (["Before", "Behind"], ["Never", ""]),
    "spec.sharding.weights": (["Streamed", "Native"], ["native", ""]),
    "spec.artifacts.persistentVolumeClaim.claimName": NAME,
    "spec.artifacts.template.storageClassName": CLASS,
    "spec.artifacts.template.size": SIZE,
    "spec.artifacts.template.accessModes": MODES,
    "spec.artifacts.retention": (["Retain", "Delete"], ["Recycle"]),
    "spec.artifacts.verification": (["Quick", "Full"], ["None"]),
    "spec.scratch.emptyDir.sizeLimit": SIZE,
    "spec.scratch.ephemeral.storageClassName": CLASS,
    "spec.scratch.ephemeral.size": SIZE,
    "spec.scratch.ephemeral.accessModes": MODES,
    "spec.scratch.persistentVolumeClaim.claimName": NAME,
    "spec.scratch.hostPath.path": ABSOLUTE,
    "spec.prepare.nodeSelector": LABEL,
    "spec.prepare.tolerations": ([[{"operator": "Exists"}]], [[{"effect": "Never"}], [{}] * 65]),
    "spec.worker.image": (["registry:5000/neuronmodel/worker@sha256:0"], ["", "two words", "x" * 513]),
    "spec.worker.imagePullSecrets": ([[{"name": "a"}]], [[{}], [{"name": "a"}] * 2]),
    "spec.worker.nodeSelector": LABEL,
    "spec.worker.tolerations": ([[{"key": "a", "effect": "NoExecute"}]], [[{"operator": "Like"}], [{}] * 65]),
    "spec.worker.topologySpreadConstraints": (
        [[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]],
        [[{"maxSkew": 1}]],
    ),
    "spec.worker.schedulerName": (["custom"], ["", "x" * 254]),
    "spec.worker.priorityClassName": (["high"], ["", "x" * 254]),
    "spec.worker.serviceAccountName": (["models"], ["", "x" * 254]),
    "spec.worker.resourceClaims": (
        [[], [{"name": "a", "resourceClaimName": "b"}]],
        [
            [{"resourceClaimName": "b"}],
            [{"name": "A", "resourceClaimName": "b"}],
            [{"name": "a", "resourceClaimName": ""}],
            [{"name": "a", "resourceClaimTemplateName": "B"}],
            [{"name": "a", "resourceClaimName": "b"}] * 2,
            [{"name": f"a{i}", "resourceClaimName": "b"} for i in range(17)],
        ],
    ),
    "spec.worker.env": (
        [[{"name": "A"}]],
        [[{"name": "A=B"}], [{"name": "A"}] * 2, [{"name": f"A{i}"} for i in range(129)]],
    ),
    "spec.worker.volumes": (
        [[{"name": "tokens", "secret": {"secretName": "s"}}]],
        [[{"name": "A", "emptyDir": {}}], [{"name": f"v{i}", "emptyDir": {}} for i in range(33)]],
    ),
    "spec.worker.volumeMounts": ([[]], [[{"name": "v"}]]),
    "spec.worker.podLabels": LABEL,
    "spec.worker.podAnnotations": ([{"a": "any thing"}], [{f"a{i}": "" for i in range(65)}]),
    "spec.worker.terminationGracePeriodSeconds": ([1, 3600], [0, 3601]),
    "spec.serving.server": (["OpenAI", "VLLM"], ["vLLM", ""]),
    "spec.serving.port": ([1024, 65535], [80, 65536]),
    "spec.serving.replicas": ([0, 1000], [-1, 1001]),
    "spec.serving.updateStrategy": (["Recreate", "Rolling"], ["RollingUpdate"]),
    "spec.serving.startTimeoutSeconds": ([1, 604800], [0, 604801]),
    "spec.serving.apiKeySecretRef.name": NAME,
    "spec.serving.apiKeySecretRef.key": KEY,
}

# The other fields that a field needs to be judged alone.
AMONG: Final[dict[str, dict[str, Any]]] = {
    "spec.parallelism.startRank": {"spec.parallelism.tensorParallelDegree": 512, "spec.suspend": True},
    "spec.parallelism.localRanks": {"spec.parallelism.tensorParallelDegree": 512, "spec.suspend": True},
    "spec.compile.maxContextLength": {"spec.compile.sequenceLength": NUMBERS_UP_TO},
    "spec.compile.onDeviceSampling.topK": {"spec.compile.onDeviceSampling.globalTopK": 2**20},
    "spec.scratch.ephemeral.storageClassName": {"spec.scratch.ephemeral.size": "1Gi"},
    "spec.scratch.ephemeral.accessModes": {"spec.scratch.ephemeral.size": "1Gi"},
    f"{HUB}.tokenSecretRef.name": {f"{HUB}.tokenSecretRef.key": "k"},
    f"{HUB}.tokenSecretRef.key": {f"{HUB}.tokenSecretRef.name": "n"},
    f"{HUB}.caBundle.configMapKeyRef.name": {f"{HUB}.caBundle.configMapKeyRef.key": "k"},
    f"{HUB}.caBundle.configMapKeyRef.key": {f"{HUB}.caBundle.configMapKeyRef.name": "n"},
    f"{HUB}.caBundle.secretKeyRef.name": {f"{HUB}.caBundle.secretKeyRef.key": "k"},
    f"{HUB}.caBundle.secretKeyRef.key": {f"{HUB}.caBundle.secretKeyRef.name": "n"},
    "spec.serving.apiKeySecretRef.name": {"spec.serving.apiKeySecretRef.key": "k"},
    "spec.serving.apiKeySecretRef.key": {"spec.serving.apiKeySecretRef.name": "n"},
}
