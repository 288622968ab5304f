"""Every rule of the definition: an object that it takes, one that it refuses, and what it says then.

`rule` is where the rule stands and which of that place's rules it is. Where `stored` is given the rule is about a
change: `stored` exists, and `good` and `bad` are what it is changed to.
"""

from dataclasses import dataclass

from tests.builders import NeuronModelBuilder, neuron_model

MODEL = neuron_model("smol")
TEMPLATE = "spec.artifacts.template"
CLAIM = {"claimName": "fast"}
HUB = "spec.model.source.huggingFace"
S3 = "spec.model.source.s3"


@dataclass(frozen=True)
class Rule:
    rule: str
    good: NeuronModelBuilder
    bad: NeuronModelBuilder
    says: str
    stored: NeuronModelBuilder | None = None


def with_env(name: str) -> NeuronModelBuilder:
    return MODEL.with_worker(env=[{"name": name, "value": "1"}])


def with_resource_claim(**names: str) -> NeuronModelBuilder:
    return MODEL.with_worker(resourceClaims=[{"name": "devices", **names}])


def with_mount(path: str) -> NeuronModelBuilder:
    return MODEL.with_worker(
        volumes=[{"name": "cache", "emptyDir": {}}], volumeMounts=[{"name": "cache", "mountPath": path}]
    )


def with_endpoint(url: str) -> NeuronModelBuilder:
    return MODEL.with_source_repository("org/model", endpoint=url)


def with_ca_bundle(*members: str) -> NeuronModelBuilder:
    return MODEL.with_source_repository(
        "org/model", caBundle={member: {"name": "authorities", "key": "ca.crt"} for member in members}
    )


RULES = (
    Rule(
        "#1",
        good=MODEL.named("llama-3-1-405b"),
        bad=MODEL.named("llama-3.1-405b"),
        says="beginning with a letter and not ending with -, for instance llama-3-1-405b",
    ),
    Rule(
        "spec#1",
        good=MODEL.with_field("spec.parallelism.localRanks", 2).suspended(),
        bad=MODEL.with_field("spec.parallelism.localRanks", 2),
        says="a part of the ranks cannot answer: remove parallelism.startRank and parallelism.localRanks, or",
    ),
    Rule(
        "spec#2",
        good=MODEL.on_neuron().with_weights("Native"),
        bad=MODEL.on_cpu().with_weights("Native"),
        says="runs on engine Neuron alone: remove sharding.weights, or choose the engine Neuron",
    ),
    Rule(
        "spec#3",
        good=MODEL.with_serving(server="VLLM").with_seal("Before"),
        bad=MODEL.with_serving(server="VLLM").with_seal("Behind"),
        says="holds no shards that it could write behind: choose sharding.seal Before, or serving.server OpenAI",
    ),
    Rule(
        "spec.model.source#1",
        good=MODEL.with_source_host_path("/models/llama"),
        bad=MODEL.with_field("spec.model.source.hostPath", {"path": "/models/llama"}),
        says="name exactly one source: huggingFace, s3, persistentVolumeClaim or hostPath",
    ),
    Rule(
        f"{HUB}.repository#1",
        good=MODEL.with_source_repository("meta-llama/Llama-3.1-405B-Instruct"),
        bad=MODEL.with_source_repository("meta-llama/Llama-3.1.git"),
        says="is no name that the Hub allows",
    ),
    Rule(
        f"{HUB}.revision#1",
        good=MODEL.with_source_repository("org/model", revision="refs/pr/1"),
        bad=MODEL.with_source_repository("org/model", revision="main..other"),
        says="must not contain '..', which git does not allow",
    ),
    Rule(
        f"{HUB}.endpoint#1",
        good=with_endpoint("https://hub.example.com:8443/mirror/"),
        bad=with_endpoint("https://user:secret@hub.example.com"),
        says="must not contain a user or a password; name the token's Secret in tokenSecretRef",
    ),
    Rule(
        f"{HUB}.endpoint#2",
        good=with_endpoint("https://[2001:db8::1]"),
        bad=with_endpoint("https://hub.example.com/?token=secret"),
        says="is no URL of a server; write it without a query and a fragment",
    ),
    Rule(
        f"{HUB}.endpoint#3",
        good=with_endpoint("https://hub.example.com"),
        bad=with_endpoint("http://hub.example.com"),
        says="has to begin with https://",
    ),
    Rule(
        f"{HUB}.caBundle#1",
        good=with_ca_bundle("secretKeyRef"),
        bad=with_ca_bundle("secretKeyRef", "configMapKeyRef"),
        says="name exactly one: configMapKeyRef or secretKeyRef",
    ),
    Rule(
        f"{S3}#1",
        good=MODEL.with_source_bucket("s3://models/llama", anonymous=True, requesterPays=False),
        bad=MODEL.with_source_bucket("s3://models/llama", anonymous=True, requesterPays=True),
        says="anonymous requests have no credentials, and nobody who pays for them",
    ),
    Rule(
        f"{S3}.uri#1",
        good=MODEL.with_source_bucket("s3://my.models-2/llama/3.1/"),
        bad=MODEL.with_source_bucket("s3://key:secret@models/llama"),
        says="names no bucket; write it as s3://BUCKET/PREFIX, without a user, a password and a port",
    ),
    Rule(
        f"{S3}.uri#2",
        good=MODEL.with_source_bucket("s3://models/..llama/v1..2/.hidden/x."),
        bad=MODEL.with_source_bucket("s3://models/llama/../secret"),
        says="must not contain an empty part, '.' or '..'",
    ),
    Rule(
        f"{S3}.endpoint#1",
        good=MODEL.with_source_bucket("s3://models/llama", endpoint="https://s3.example.com:9000"),
        bad=MODEL.with_source_bucket("s3://models/llama", endpoint="https://key:secret@s3.example.com"),
        says="must not contain a user or a password; name the Secret of the keys in credentialsSecretRef",
    ),
    Rule(
        f"{S3}.endpoint#2",
        good=MODEL.with_source_bucket("s3://models/llama", endpoint="https://[2001:db8::1]"),
        bad=MODEL.with_source_bucket("s3://models/llama", endpoint="https://s3.example.com/?list-type=2"),
        says="is no URL of a server; write it without a query and a fragment",
    ),
    Rule(
        f"{S3}.endpoint#3",
        good=MODEL.with_source_bucket("s3://models/llama", endpoint="https://s3.example.com"),
        bad=MODEL.with_source_bucket("s3://models/llama", endpoint="http://s3.example.com"),
        says="has to begin with https://",
    ),
    Rule(
        f"{S3}.caBundle#1",
        good=MODEL.with_source_bucket("s3://models/llama", caBundle={"secretKeyRef": {"name": "ca", "key": "ca.crt"}}),
        bad=MODEL.with_source_bucket("s3://models/llama", caBundle={}),
        says="name exactly one: configMapKeyRef or secretKeyRef",
    ),
    Rule(
        "spec.model.source.persistentVolumeClaim.path#1",
        good=MODEL.with_source_claim("models", "meta/llama"),
        bad=MODEL.with_source_claim("models", "/meta/llama"),
        says="is relative to the root of the volume; remove the / at its beginning",
    ),
    Rule(
        "spec.model.source.persistentVolumeClaim.path#2",
        good=MODEL.with_source_claim("models", "meta..llama/v1..2"),
        bad=MODEL.with_source_claim("models", "meta/../../etc"),
        says="must not contain '..'; name the directory itself",
    ),
    Rule(
        "spec.model.source.hostPath.path#1",
        good=MODEL.with_source_host_path("/"),
        bad=MODEL.with_source_host_path("models"),
        says="has to be an absolute path; begin it with /",
    ),
    Rule(
        "spec.model.source.hostPath.path#2",
        good=MODEL.with_source_host_path("/models/..llama"),
        bad=MODEL.with_source_host_path("/models/.."),
        says="must not contain '..'; name the directory itself",
    ),
    Rule(
        "spec.parallelism#1",
        good=MODEL.with_field(
            "spec.parallelism", _PARTIAL := {"tensorParallelDegree": 4, "startRank": 2, "localRanks": 2}
        ).suspended(),
        bad=MODEL.with_field("spec.parallelism", {**_PARTIAL, "startRank": 3}).suspended(),
        says="startRank and localRanks reach beyond the last rank",
    ),
    Rule(
        "spec.compile#1",
        good=MODEL.with_compile(maxContextLength=2048, sequenceLength=2048),
        bad=MODEL.with_compile(maxContextLength=2049, sequenceLength=2048),
        says="maxContextLength is longer than sequenceLength (absent: 128)",
    ),
    Rule(
        "spec.compile.onDeviceSampling#1",
        good=MODEL.with_compile(onDeviceSampling={"topK": 300, "globalTopK": 300}),
        bad=MODEL.with_compile(onDeviceSampling={"topK": 257}),
        says="topK is -1 (as many as globalTopK) or a number from 1 to globalTopK (absent: 256)",
    ),
    Rule(
        "spec.compile.extra[]#1",
        good=MODEL.with_flag("vocab_parallel", True),
        bad=MODEL.with_flag("seq_len", 4096),
        says="extra cannot set seq_len, which has a field of its own: use spec.compile.sequenceLength",
    ),
    Rule(
        "spec.compile.extra[]#2",
        good=MODEL.with_flag("skip_warmup", True),
        bad=MODEL.with_flag("skip_sharding", True),
        says="extra cannot set skip_sharding, which the operator sets itself from spec.sharding",
    ),
    Rule(
        "spec.sharding#1",
        good=MODEL.with_strategy("Auto").with_seal("Behind"),
        bad=MODEL.with_strategy("ShardOnLoad").with_seal("Behind"),
        says="remove sharding.seal, or choose the strategy ShardOnCompile or Auto",
    ),
    Rule(
        "spec.sharding#2",
        good=MODEL.with_weights("Native").with_seal("Before"),
        bad=MODEL.with_weights("Native").with_seal("Behind"),
        says="the worker has none to write behind: choose seal Before, or weights Streamed",
    ),
    Rule(
        "spec.artifacts#1",
        good=MODEL.with_artifacts_claim("artifacts"),
        bad=MODEL.with_field("spec.artifacts.persistentVolumeClaim", {"claimName": "artifacts"}),
        says="name exactly one artifacts volume: persistentVolumeClaim for a claim of yours, or template",
    ),
    Rule(
        "spec.artifacts.template#1",
        stored=MODEL.with_artifacts_template("10Gi", storageClassName="gp3"),
        good=MODEL.with_artifacts_template("11Gi", storageClassName="gp3"),
        bad=MODEL.with_artifacts_template("10Gi"),
        says="storageClassName cannot change once the claim is made",
    ),
    Rule(
        "spec.artifacts.template#2",
        stored=MODEL.with_artifacts_template("10Gi"),
        good=MODEL.with_artifacts_template("10Gi", accessModes=["ReadWriteOnce"]),
        bad=MODEL.with_artifacts_template("10Gi", accessModes=["ReadWriteMany"]),
        says="accessModes cannot change once the claim is made",
    ),
    Rule(
        "spec.artifacts.template#3",
        stored=MODEL.with_artifacts_template("10Gi"),
        good=MODEL.with_artifacts_template("10240Mi"),
        bad=MODEL.with_artifacts_template("10G"),
        says="size can only grow and is 10Gi now; ask for at least that",
    ),
    Rule(
        "spec.artifacts.template.size#1",
        good=MODEL.with_artifacts_template("1.5Ti"),
        bad=MODEL.with_artifacts_template("10 GB"),
        says="is not a size; write a number above 0 with a unit, for instance 500Gi",
    ),
    Rule(
        "spec.artifacts.template.accessModes#1",
        good=MODEL.with_artifacts_template("10Gi", accessModes=["ReadWriteOncePod"]),
        bad=MODEL.with_artifacts_template("10Gi", accessModes=["ReadWriteOncePod", "ReadWriteMany"]),
        says="ReadWriteOncePod cannot be combined with another access mode; name it alone",
    ),
    Rule(
        "spec.scratch#1",
        good=MODEL.with_field("spec.scratch", {"persistentVolumeClaim": CLAIM}),
        bad=MODEL.with_field("spec.scratch", {"persistentVolumeClaim": CLAIM, "emptyDir": {}}),
        says="name at most one kind of scratch space: emptyDir, ephemeral, persistentVolumeClaim or hostPath",
    ),
    Rule(
        "spec.scratch.emptyDir.sizeLimit#1",
        good=MODEL.with_field("spec.scratch.emptyDir", {"sizeLimit": "1Gi"}),
        bad=MODEL.with_field("spec.scratch.emptyDir", {"sizeLimit": "0"}),
        says="is not a size; write a number above 0 with a unit, for instance 500Gi",
    ),
    Rule(
        "spec.scratch.ephemeral.size#1",
        good=MODEL.with_field("spec.scratch.ephemeral", {"size": "500Gi"}),
        bad=MODEL.with_field("spec.scratch.ephemeral", {"size": "-1Gi"}),
        says="is not a size; write a number above 0 with a unit, for instance 500Gi",
    ),
    Rule(
        "spec.scratch.ephemeral.accessModes#1",
        good=MODEL.with_field("spec.scratch.ephemeral", {"size": "1Gi", "accessModes": ["ReadWriteOnce"]}),
        bad=MODEL.with_field(
            "spec.scratch.ephemeral", {"size": "1Gi", "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"]}
        ),
        says="ReadWriteOncePod cannot be combined with another access mode; name it alone",
    ),
    Rule(
        "spec.scratch.hostPath.path#1",
        good=MODEL.with_field("spec.scratch.hostPath", {"path": "/mnt/k8s-disks/0"}),
        bad=MODEL.with_field("spec.scratch.hostPath", {"path": "mnt"}),
        says="has to be an absolute path; begin it with /",
    ),
    Rule(
        "spec.scratch.hostPath.path#2",
        good=MODEL.with_field("spec.scratch.hostPath", {"path": "/mnt/a..b"}),
        bad=MODEL.with_field("spec.scratch.hostPath", {"path": "/mnt/../etc"}),
        says="must not contain '..'; name the directory itself",
    ),
    Rule(
        "spec.worker#1",
        good=with_mount("/cache"),
        bad=with_mount("/cache").with_worker(volumes=[{"name": "other", "emptyDir": {}}]),
        says="each of volumeMounts has to name one of worker.volumes",
    ),
    Rule(
        "spec.worker.resourceClaims[]#1",
        good=with_resource_claim(resourceClaimTemplateName="neuron"),
        bad=with_resource_claim(resourceClaimTemplateName="neuron", resourceClaimName="mine"),
        says="exactly one of resourceClaimName, a claim that exists, and resourceClaimTemplateName",
    ),
    Rule(
        "spec.worker.env[]#1",
        good=with_env("NEURON_RT_LOG_LEVEL"),
        bad=with_env("NEURON_RT_NUM_CORES"),
        says="the variable NEURON_RT_NUM_CORES is the operator's own; remove it",
    ),
    Rule(
        "spec.worker.volumes[]#1",
        good=MODEL.with_worker(volumes=[{"name": "cache", "emptyDir": {}}]),
        bad=MODEL.with_worker(volumes=[{"name": "scratch", "emptyDir": {}}]),
        says="the volume name scratch is the operator's own; choose another",
    ),
    Rule(
        "spec.worker.volumes[]#2",
        good=MODEL.with_worker(volumes=[{"name": "settings", "configMap": {"name": "settings"}}]),
        bad=MODEL.with_worker(volumes=[{"name": "settings"}]),
        says="a directory of the node can only be spec.model.source.hostPath or spec.scratch.hostPath",
    ),
    Rule(
        "spec.worker.volumeMounts[]#1",
        good=with_mount("/sources"),
        bad=with_mount("/scratch/cache"),
        says="the mount path /scratch/cache clashes with one of the operator's own",
    ),
    Rule(
        "spec.worker.volumeMounts[]#2",
        good=with_mount("/opt/cache.d/"),
        bad=with_mount("/opt//cache"),
        says="mountPath has to be an absolute path without '.', '..', '//' and ':'",
    ),
    Rule(
        "spec.worker.podLabels#1",
        good=MODEL.with_worker(podLabels={"team": "search"}),
        bad=MODEL.with_worker(podLabels={"neuronmodel.dev/uid": "another"}),
        says="labels that begin with neuronmodel.dev/ or app.kubernetes.io/ are the operator's own; remove them",
    ),
    Rule(
        "spec.worker.podAnnotations#1",
        good=MODEL.with_worker(podAnnotations={"team": "search"}),
        bad=MODEL.with_worker(podAnnotations={"neuronmodel.dev/template-hash": "x"}),
        says="annotations that begin with neuronmodel.dev/ are the operator's own; remove them",
    ),
    Rule(
        "spec.worker.podLabels#2",
        good=MODEL.with_field("spec.worker.podLabels", {"example.com/team": "search"}),
        bad=MODEL.with_field("spec.worker.podLabels", {"example.com/the team": "search"}),
        says="optionally after a DNS prefix and a /, for instance example.com/team; correct the key",
    ),
    Rule(
        "spec.worker.podAnnotations#2",
        good=MODEL.with_field("spec.worker.podAnnotations", {"example.com/team": "search"}),
        bad=MODEL.with_field("spec.worker.podAnnotations", {"a/b/c": "search"}),
        says="optionally after a DNS prefix and a /, for instance example.com/team; correct the key",
    ),
    Rule(
        "spec.worker.nodeSelector#1",
        good=MODEL.with_field("spec.worker.nodeSelector", {"example.com/team": "search"}),
        bad=MODEL.with_field("spec.worker.nodeSelector", {"example.com/the team": "search"}),
        says="optionally after a DNS prefix and a /, for instance example.com/team; correct the key",
    ),
    Rule(
        "spec.prepare.nodeSelector#1",
        good=MODEL.with_field("spec.prepare.nodeSelector", {"example.com/team": "search"}),
        bad=MODEL.with_field("spec.prepare.nodeSelector", {"-zone": "a"}),
        says="optionally after a DNS prefix and a /, for instance example.com/team; correct the key",
    ),
    Rule(
        "spec.serving#1",
        good=MODEL.with_serving(server="VLLM", extraArgs=["--seed", "1"]),
        bad=MODEL.with_serving(extraArgs=["--seed", "1"]),
        says="extraArgs are arguments of vLLM; set server: VLLM, or remove them",
    ),
    Rule(
        "spec.serving.extraArgs[]#1",
        good=MODEL.with_serving(server="VLLM", extraArgs=["--max-logprobs=50", "--tool-call-parser", "port"]),
        bad=MODEL.with_serving(server="VLLM", extraArgs=["--seed", "1", "--max_model_len=4096"]),
        says="names what the operator sets from the spec; remove it",
    ),
    Rule(
        "spec.serving.port#1",
        good=MODEL.with_serving(port=9807),
        bad=MODEL.with_serving(port=9808),
        says="9808 is the worker's own port for health and metrics; choose another",
    ),
)
