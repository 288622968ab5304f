"""Every reason that a NeuronModel shows: in conditions, Events, notes and starts, and for its strategy.

A reason is part of the contract: its name stays as it is when its text here changes. One entry adds a reason; the
operator, the worker and docs/reference/reasons.md take it from here. Where a worker's report is read, a reason may be
any word, as users' images and newer workers may use others.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from neuronmodel_api.conditions import ConditionType


class ReasonUse(StrEnum):
    """Where a reason is shown."""

    CONDITION = "Condition"
    EVENT = "Event"
    """Only in Events."""
    NOTE = "Note"
    """In a note on something that did not stop a start, and in an Event. It is a worker's but for SLOWER_THAN_USUAL."""
    START = "Start"
    """In `status.starts[].reason`, where no condition has it."""
    STRATEGY = "Strategy"


_LINK: Final = re.compile(r"\[([^]]+)\]\([^)]*\)")


def plain(markdown: str) -> str:
    """Returns a meaning or a remedy without the marks of the reference pages, for a terminal."""
    return _LINK.sub(r"\1", markdown).replace("`", "")


@dataclass(frozen=True)
class _ReasonEntry:
    word: str
    meaning: str
    remedy: str = ""
    blocks: bool = False
    condition: ConditionType | None = None
    use: ReasonUse = ReasonUse.CONDITION


_BY_ITSELF: Final = "It goes on by itself."


class Reason(StrEnum):
    """The reasons. Each member is its name, so that it compares and serializes as that."""

    _value_: str
    meaning: str
    remedy: str
    """What to do; empty if nothing is wrong."""
    blocks: bool
    """Whether no worker runs until somebody acts: a start records that time as its phase `Blocked`."""
    condition: ConditionType | None
    """The condition that shows it when a worker fails with it: SourceResolved whether `prepare` or a serving worker
    fails, and for others that of the first stage that can fail with it. None if no worker fails with it."""
    use: ReasonUse

    def __new__(cls, entry: _ReasonEntry) -> Self:
        member = str.__new__(cls, entry.word)
        member._value_ = entry.word
        member.meaning = entry.meaning
        member.remedy = entry.remedy
        member.blocks = entry.blocks
        member.condition = entry.condition
        member.use = entry.use
        return member

    @property
    def advice(self) -> str:
        """The remedy in plain text, for where the message stands beside it; empty if it only refers to that."""
        return "" if self.remedy.startswith("The message") else plain(self.remedy)

    @classmethod
    def known(cls, word: str) -> "Reason | None":
        """Returns the member, or None for a word of a user's image or of a newer worker."""
        return next((reason for reason in cls if reason == word), None)

    # As it should be.
    SERVING = _ReasonEntry("Serving", "A worker made from the present spec answers.")
    RESOLVED = _ReasonEntry("Resolved", "The checkpoint was opened and makes sense.")
    PREPARED = _ReasonEntry("Prepared", "Everything that a start loads is in the artifact store.")
    PLACED = _ReasonEntry("Placed", "The pod that is needed now has a node.")
    LOADED = _ReasonEntry("Loaded", "The worker has the weights in place and has been warmed up.")
    UP_TO_DATE = _ReasonEntry("UpToDate", "The worker is as this operator would make it.")
    SUSPENDED = _ReasonEntry("Suspended", "`spec.suspend` is true: no worker is wanted.", "Set it to false to serve.")
    SCALED_TO_ZERO = _ReasonEntry(
        "ScaledToZero", "`spec.serving.replicas` is 0: no worker is wanted.", "Scale to 1 to serve."
    )
    TERMINATING = _ReasonEntry("Terminating", "The NeuronModel is being deleted.")
    # Under way.
    WAITING_FOR_PREPARE = _ReasonEntry(
        "WaitingForPrepare", "The Job `prepare` has not opened the source yet.", _BY_ITSELF
    )
    WAITING_FOR_SOURCE = _ReasonEntry(
        "WaitingForSource", "Building waits for the source; SourceResolved says why.", "See SourceResolved."
    )
    WAITING_FOR_PLACEMENT = _ReasonEntry(
        "WaitingForPlacement", "The Job's pod has no place yet; Scheduled says why.", "See Scheduled."
    )
    WAITING_FOR_FORMER_PREPARE = _ReasonEntry(
        "WaitingForFormerPrepare", "The Job of the former inputs has to end before the next begins.", _BY_ITSELF
    )
    WAITING_FOR_ARTIFACTS = _ReasonEntry(
        "WaitingForArtifacts", "The worker starts when everything it loads is there.", "See ArtifactsReady."
    )
    WAITING_FOR_VOLUME = _ReasonEntry(
        "WaitingForVolume",
        "A claim waits for its volume, which is being made; the message names the claim.",
        "It goes on by itself; after ten minutes it counts as `ClaimPending`.",
    )
    SCHEDULING_GATED = _ReasonEntry(
        "SchedulingGated",
        "The pod has scheduling gates, which somebody other than the operator put there: a queue such as Kueue, often.",
        "It goes on when they are taken away.",
    )
    WAITING_FOR_POD = _ReasonEntry("WaitingForPod", "The pod is being made.", _BY_ITSELF)
    WAITING_FOR_NODE = _ReasonEntry("WaitingForNode", "The pod waits for the scheduler.", _BY_ITSELF)
    WAITING_FOR_CONTAINER = _ReasonEntry(
        "WaitingForContainer", "The pod has a node; its volumes and image are being fetched.", _BY_ITSELF
    )
    PREPARING = _ReasonEntry("Preparing", "The Job `prepare` is at work.", "`status.workers` shows how far it is.")
    TRYING_IMAGE = _ReasonEntry(
        "TryingImage",
        "A worker answers, and is to be replaced by one with another image: `prepare` runs with that first.",
        "It goes on by itself; ArtifactsReady says so if the image can't be pulled or does not work.",
    )
    READING_RESULT = _ReasonEntry("ReadingResult", "`prepare` succeeded and its result is being read.", _BY_ITSELF)
    WAITING_FOR_DEVICES = _ReasonEntry(
        "WaitingForDevices",
        "Another process holds the Neuron devices still, often the pod before; they are tried again and again.",
        _BY_ITSELF,
    )
    LOADING = _ReasonEntry("Loading", "The worker loads.", "`status.workers` shows how far it is.")
    STARTING = _ReasonEntry("Starting", "The worker is about to answer.", _BY_ITSELF)
    STOPPED = _ReasonEntry("Stopped", "No worker is wanted.")
    NO_WORKER = _ReasonEntry("NoWorker", "There is no worker yet.")
    # Updates.
    NEW_IMAGE = _ReasonEntry(
        "NewImage",
        "The operator is configured for another worker image than the one that runs; an upgrade restarts nobody.",
        "Change the annotation `neuronmodel.dev/restart` when a restart suits.",
    )
    NEW_RENDERING = _ReasonEntry(
        "NewRendering",
        "This version of the operator makes another pod than the one that runs; an upgrade restarts nobody.",
        "Change the annotation `neuronmodel.dev/restart` when a restart suits.",
    )
    NEW_REVISION = _ReasonEntry(
        "NewRevision",
        "The source is at another commit, or its bucket in another state, than the one that is served.",
        "Change the annotation `neuronmodel.dev/restart` to prepare and serve it.",
    )
    # Claims, in the condition of what they are for: SourceResolved, ArtifactsReady, Scheduled (scratch, own volumes).
    CLAIM_PENDING = _ReasonEntry(
        "ClaimPending",
        "A claim gets no volume: its class does not exist, no volume has its size or access mode, or the provisioner "
        "fails. The message ends with Kubernetes' own words and what to do.",
        "Provide the class or the volume, or replace the claim by one that the cluster can fill.",
        blocks=True,
    )
    CLAIM_TERMINATING = _ReasonEntry(
        "ClaimTerminating",
        "A claim is being deleted, and goes with the last pod that mounts it; a worker that answers goes on.",
        "Create it again when it has gone, or name another; one that is made from the template comes again by itself.",
        blocks=True,
    )
    CLAIM_LOST = _ReasonEntry(
        "ClaimLost",
        "The PersistentVolume of a claim is gone, with what was on it.",
        "Create the claim again, or name another.",
        blocks=True,
    )
    # The source.
    SOURCE_CLAIM_MISSING = _ReasonEntry(
        "SourceClaimMissing",
        "The claim of `spec.model.source` does not exist.",
        "Make it, or name another.",
        blocks=True,
    )
    HOST_PATH_NOT_ALLOWED = _ReasonEntry(
        "HostPathNotAllowed",
        "The spec names a path of the node, and the operator was installed without `allowHostPath`.",
        "Use a claim, or install the operator with `allowHostPath`.",
        blocks=True,
    )
    ENDPOINT_NOT_ALLOWED = _ReasonEntry(
        "EndpointNotAllowed",
        "The operator lets NeuronModels read from endpoints of a list alone, and this one is not in it.",
        "Use one that the message names, or install the operator with this one in the list that it names.",
        blocks=True,
    )
    SOURCE_UNREACHABLE = _ReasonEntry(
        "SourceUnreachable",
        "Nothing came from the server: no name, no connection, no answer in time, or errors of the server alone. With "
        "the status Unknown nothing needs it at present: what was prepared is served.",
        "Check name resolution, proxy and egress rules for the host in the message; it is tried again.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_RATE_LIMITED = _ReasonEntry(
        "SourceRateLimited",
        "The server limits the rate of requests, and asks to wait for longer than a worker waits.",
        "Give a token, as limits without one hold for an address; or start fewer at a time. It is tried again.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CERTIFICATE_UNTRUSTED = _ReasonEntry(
        "CertificateUntrusted",
        "The server's certificate is signed by no authority that the worker trusts.",
        "Name the authority's certificate in `caBundle` of the source; for a proxy that opens TLS, that of the proxy.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    REPOSITORY_NOT_FOUND = _ReasonEntry(
        "RepositoryNotFound",
        "There is no such repository, or the token's user may not see it: servers answer the same to both.",
        "Correct the name, or give a token of a user who may read it.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    REVISION_NOT_FOUND = _ReasonEntry(
        "RevisionNotFound",
        "The repository has no such branch, tag or commit.",
        "Name one that it has. Where the pinned commit was removed, change the annotation `neuronmodel.dev/restart`.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_UNAUTHORIZED = _ReasonEntry(
        "SourceUnauthorized",
        "The server wants a token, or does not accept the one that it gets: it is wrong, expired or of another server.",
        "Put a valid one into the Secret that the source names; a public repository needs none.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_FORBIDDEN = _ReasonEntry(
        "SourceForbidden",
        "The token lacks the scope to read this, or the server refuses for a reason of its own, which the message has.",
        "Give a token with that scope; if it has it, see what the message says.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_GATED = _ReasonEntry(
        "SourceGated",
        "Everybody may see the repository, but its files only those who asked for access and got it.",
        "Ask at the address in the message, as the user whose token is given; then it is tried again by itself, or at "
        "once with the annotation `neuronmodel.dev/retry`.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    REGION_WRONG = _ReasonEntry(
        "RegionWrong",
        "The bucket is in another region than the one that is asked; the message has the right one where S3 says it.",
        "Set `region` of the source to it.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    ENDPOINT_INVALID = _ReasonEntry(
        "EndpointInvalid",
        "What answers at the endpoint does not speak the API that it should.",
        "Name an endpoint that does, without the path of a page.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_NOT_FOUND = _ReasonEntry(
        "SourceNotFound",
        "The path is not on the volume, or is no directory; or there is no such bucket, or no checkpoint in it there.",
        "Correct `path` or the bucket's name, or copy the checkpoint there.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_UNREADABLE = _ReasonEntry(
        "SourceUnreadable",
        "A file of the source can't be read.",
        "Check the volume, and that user and group 65532 may read the files.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CONFIG_MISSING = _ReasonEntry(
        "ConfigMissing",
        "The directory holds no `config.json`.",
        "Name the directory of a Hugging Face checkpoint, or complete it.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CONFIG_INVALID = _ReasonEntry(
        "ConfigInvalid",
        "`config.json`, or another small file, can't be understood, or contradicts the weights.",
        "Download it again.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    MODEL_TYPE_WITHOUT_LAYOUT = _ReasonEntry(
        "UnknownModelType",
        "There is no layout for this model type, or the model is multimodal: the worker can't shard it. NxD Inference "
        "may know the type all the same (if not: `ModelTypeUnknown`).",
        "Use a family that the message names, or set `spec.model.type`; a multimodal model's language model by itself.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    NOT_A_CHECKPOINT = _ReasonEntry(
        "NotACheckpoint",
        "Something else lies where the checkpoint or a file of it has to be: a git-lfs pointer, a web page, an "
        "adapter, weights in another format. [What is recognised](checkpoints.md).",
        "Fetch, merge or convert it, as the message says.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CHECKPOINT_QUANTIZED = _ReasonEntry(
        "CheckpointQuantized",
        "The weights are quantized; the message says by which method and what shows it.",
        "Use the checkpoint that it was made from, or dequantize it.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CHECKPOINT_FILE_MISSING = _ReasonEntry(
        "CheckpointFileMissing",
        "A file of the checkpoint is missing or not downloaded whole, or a link in its place leads nowhere.",
        "Complete the download, or mount what the links lead to.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CHECKPOINT_TRUNCATED = _ReasonEntry(
        "CheckpointTruncated",
        "A file is shorter than its header says.",
        "Copy the file again.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    CHECKPOINT_HEADER_INVALID = _ReasonEntry(
        "CheckpointHeaderInvalid",
        "A safetensors header lies or is garbled.",
        "Copy the file again.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    TENSOR_MISSING = _ReasonEntry(
        "TensorMissing",
        "The model needs a tensor that the checkpoint lacks, or has under another name.",
        "Check that `config.json` belongs to these files; save the model again where the message says so.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    TENSOR_SHAPE_MISMATCH = _ReasonEntry(
        "TensorShapeMismatch",
        "A tensor has another shape than `config.json` makes it.",
        "Check that `config.json` belongs to these files.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    SOURCE_CHANGED = _ReasonEntry(
        "SourceChanged",
        "The checkpoint is no longer what was prepared.",
        "Nothing: `prepare` runs again. Don't write to it meanwhile.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    # The artifacts.
    ARTIFACTS_CLAIM_MISSING = _ReasonEntry(
        "ArtifactsClaimMissing",
        "The claim of `spec.artifacts` does not exist.",
        "Make it, or name another.",
        blocks=True,
    )
    ARTIFACTS_VOLUME_FULL = _ReasonEntry(
        "ArtifactsVolumeFull",
        "The artifacts volume has not enough room; the message says how much is needed, and what would make room.",
        "Enlarge it, or remove what is no longer used: `neuronmodel artifacts collect`, or the NeuronModels named.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ARTIFACTS_UNWRITABLE = _ReasonEntry(
        "ArtifactsUnwritable",
        "The artifacts volume can't be written.",
        "Check it, and that group 65532 may write to it.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ARTIFACTS_MISSING = _ReasonEntry(
        "ArtifactsMissing",
        "What was prepared is not on the artifacts volume: it is a new one, or somebody removed it.",
        "Nothing: `prepare` builds it again.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ARTIFACT_DAMAGED = _ReasonEntry(
        "ArtifactDamaged",
        "What was prepared is damaged.",
        "Nothing: `prepare` sets it aside and builds it again.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ARTIFACTS_OUTDATED = _ReasonEntry(
        "ArtifactsOutdated",
        "What was prepared is of another version than the worker's image reads.",
        "Nothing: `prepare` builds it again.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ARTIFACTS_TOO_NEW = _ReasonEntry(
        "ArtifactsTooNew",
        "A newer version of the worker sealed what this one would read; it is left as it is.",
        "Use the newer worker image, or another artifacts volume.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ARTIFACTS_UNREADABLE = _ReasonEntry(
        "ArtifactsUnreadable",
        "The artifacts volume can't be read.",
        "Check it, and that group 65532 may read it.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    LAYOUT_REFUSED = _ReasonEntry(
        "LayoutRefused",
        "NxD Inference refuses this combination of model, degree and flags, or there is no layout for it.",
        "Choose a degree and flags that the message allows.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    ENGINE_REFUSED = _ReasonEntry(
        "EngineRefused",
        "The engine does not run this model or these flags.",
        "Do as the message says.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    FLAGS_REFUSED = _ReasonEntry(
        "FlagsRefused",
        "A field of NeuronConfig is unknown, of the wrong type, or contradicts another; the message names it.",
        "Correct it in `spec.compile` or `spec.parallelism`.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    MODEL_TYPE_WITHOUT_APPLICATION = _ReasonEntry(
        "ModelTypeUnknown",
        "The NxD Inference of the worker's image has no model of this type, which shows when it compiles or shards. A "
        "layout for the type does not help (where that is missing: `UnknownModelType`).",
        "Set `spec.model.type` to one that the message names, or use an image with a newer NxD Inference.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    DOES_NOT_FIT = _ReasonEntry(
        "DoesNotFit",
        "The model does not fit the instance type of the node selector; the message has both figures.",
        "Use a larger instance type, another `spec.parallelism`, shorter sequences or smaller batches.",
        blocks=True,
        condition=ConditionType.ARTIFACTS_READY,
    )
    PARTIAL_RANKS = _ReasonEntry(
        "PartialRanks",
        "A part of the ranks was prepared, and a model answers with all of them.",
        "Remove `startRank` and `localRanks` from `spec.parallelism`.",
        condition=ConditionType.LOADED,
    )
    SHARDS_UNEXPECTED = _ReasonEntry(
        "ShardsUnexpected",
        "NxD Inference sharded the model without a complaint and left other files than the ranks'.",
        "Read the log of `prepare`; check the flags that name ranks.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    SDK_PLACEHOLDER = _ReasonEntry(
        "SdkPlaceholder",
        "What the image has under the name of a Neuron package is an empty placeholder, not the Neuron SDK.",
        "Use an image that is made from AWS's Neuron images.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    COMPILER_FAILED = _ReasonEntry(
        "CompilerFailed",
        "The Neuron compiler failed; the message ends with its last lines and names the log on the artifacts volume.",
        "Read the log; change the flags that it is about, or use an image of another SDK version.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    COMPILER_OUT_OF_MEMORY = _ReasonEntry(
        "CompilerOutOfMemory",
        "The Neuron compiler ran out of memory.",
        "Raise the memory of `spec.prepare.resources`, or let `prepare` run on a larger node.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    BAD_INPUT = _ReasonEntry(
        "BadInput",
        "The spec, the checkpoint or a flag is wrong.",
        "Do as the message says.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    PREPARE_FAILED = _ReasonEntry(
        "PrepareFailed",
        "`prepare` ended without saying why; the message quotes what failed.",
        "Read its log with the command in the message; it is tried again by itself.",
    )
    CONFIGURATION_INVALID = _ReasonEntry(
        "ConfigurationInvalid",
        "The worker can't read the configuration that the operator gave it.",
        "Use a worker image of the operator's version.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    TOKENIZER_INVALID = _ReasonEntry(
        "TokenizerInvalid",
        "The tokenizer's files are missing or garbled.",
        "Complete the download.",
        condition=ConditionType.SOURCE_RESOLVED,
    )
    TRANSFORMERS_UNSUPPORTED = _ReasonEntry(
        "TransformersUnsupported",
        "The image's transformers, by which tokenizers are read, is missing or too old.",
        "Use an image with a version that the message names.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    LOGITS_NOT_FINITE = _ReasonEntry(
        "LogitsNotFinite",
        "The warm-up computed numbers that are NaN or infinite: the checkpoint's are, or they overflow in their type.",
        "Use a sound checkpoint, or another `torch_dtype`.",
        condition=ConditionType.LOADED,
    )
    SCRATCH_UNWRITABLE = _ReasonEntry(
        "ScratchUnwritable",
        "The scratch volume can't be written.",
        "Check it, and that group 65532 may write to it.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    API_KEY_INVALID = _ReasonEntry(
        "ApiKeyInvalid",
        "The key of `spec.serving.apiKeySecretRef` can't be used.",
        "Correct the Secret; the worker starts again.",
        condition=ConditionType.LOADED,
    )
    PORT_TAKEN = _ReasonEntry(
        "PortTaken",
        "A port of the worker is taken in its pod.",
        "Choose another `spec.serving.port`.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    WORKER_FAILED = _ReasonEntry(
        "WorkerFailed",
        "The worker failed for a reason of no other name.",
        "Read its log.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    # The place.
    SCRATCH_CLAIM_MISSING = _ReasonEntry(
        "ScratchClaimMissing", "The claim of `spec.scratch` does not exist.", "Make it, or name another.", blocks=True
    )
    NO_IMAGE = _ReasonEntry(
        "NoImage", "No image is configured for the engine.", "Set `spec.worker.image`, or the chart's.", blocks=True
    )
    UNSCHEDULABLE = _ReasonEntry(
        "Unschedulable",
        "No node takes the pod: too few devices, no node of the instance type, a taint, a volume elsewhere.",
        "The message is the scheduler's. Free devices, add a node, or change `spec.worker`.",
    )
    POD_SECURITY_REFUSED = _ReasonEntry(
        "PodSecurityRefused",
        "Pod Security Admission refuses the pod.",
        "Its defaults satisfy `restricted`: look at what `spec.worker`, `scratch` or a hostPath add.",
        blocks=True,
    )
    QUOTA_EXCEEDED = _ReasonEntry(
        "QuotaExceeded",
        "A ResourceQuota leaves no room.",
        "Raise the quota, or lower `spec.worker.resources`.",
        blocks=True,
    )
    LIMIT_RANGE_REFUSED = _ReasonEntry(
        "LimitRangeRefused",
        "A LimitRange refuses the pod or the claim.",
        "Set `spec.worker.resources`, or the claim's size, within it.",
        blocks=True,
    )
    POD_REFUSED = _ReasonEntry(
        "PodRefused", "The API server or a webhook refuses the pod.", "The message is its own.", blocks=True
    )
    WRITE_REFUSED = _ReasonEntry(
        "WriteRefused", "The API server refuses what the operator makes.", "The message is its own.", blocks=True
    )
    WRITE_FAILED = _ReasonEntry(
        "WriteFailed",
        "The API server fails, is overloaded or contradicts itself when an object is written; the message is its own.",
        "Mend what the message names; it is tried again every few seconds.",
        blocks=True,
    )
    WEBHOOK_FAILED = _ReasonEntry(
        "WebhookFailed",
        "An admission webhook that has to be asked does not answer, or answers garbage.",
        "Mend the webhook that the message names, or remove its configuration.",
        blocks=True,
    )
    NOT_PERMITTED = _ReasonEntry(
        "NotPermitted",
        "The operator's account lacks a right; the message names it.",
        "Give it the role that its chart makes (`helm upgrade` puts it back).",
        blocks=True,
    )
    NO_ANSWER = _ReasonEntry(
        "NoAnswer",
        "The API server, or a webhook that it asks, has not answered to a write.",
        "See whether a webhook hangs; it is tried again by itself.",
        blocks=True,
    )
    FORMER_LEAVING = _ReasonEntry(
        "FormerLeaving",
        "An object of a former NeuronModel of this name is still being removed.",
        "It goes on by itself; if not, look at the object's finalizers.",
    )
    CANNOT_LOOK = _ReasonEntry(
        "CannotLook",
        "The API server does not let the operator see what belongs to the NeuronModel; what it says may be old.",
        "The message is the API server's own; it is tried again every few seconds.",
    )
    SPEC_UNREADABLE = _ReasonEntry(
        "SpecUnreadable",
        "The spec is of another version of the definition than this operator reads; the message names the place.",
        "Use an operator and a definition of one version, or correct the spec.",
        blocks=True,
    )
    OPERATOR_FAILED = _ReasonEntry(
        "OperatorFailed",
        "The operator came upon something that it was not made for; other NeuronModels are not concerned.",
        "Read its log, and report it; it tries again by itself, ever more rarely up to once a minute.",
    )
    NAME_TAKEN = _ReasonEntry(
        "NameTaken",
        "An object of that name belongs to somebody else.",
        "Delete it, or give the NeuronModel another name.",
        blocks=True,
    )
    REPLICAS_NEED_SHARED_VOLUME = _ReasonEntry(
        "ReplicasNeedSharedVolume",
        "Several replicas need volumes that several nodes can mount; one is kept.",
        "Use claims with ReadWriteMany (a source may be ReadOnlyMany), or one replica.",
    )
    # The worker.
    IMAGE_PULL_FAILED = _ReasonEntry(
        "ImagePullFailed", "The image can't be pulled.", "Correct the image or its pull secret.", blocks=True
    )
    CONTAINER_REFUSED = _ReasonEntry(
        "ContainerRefused", "The node can't make the container.", "The message is the kubelet's.", blocks=True
    )
    VOLUME_MOUNT_FAILED = _ReasonEntry(
        "VolumeMountFailed", "A volume can't be mounted.", "The message is the kubelet's.", blocks=True
    )
    WORKER_CRASHED = _ReasonEntry(
        "WorkerCrashed",
        "The worker ended without saying why; Kubernetes starts it again.",
        "The message quotes what failed, and has the command that shows the log.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    TERMINATED = _ReasonEntry(
        "Terminated",
        "The worker was asked to stop before it was done: its node or its pod was to go, its probe failed, or somebody "
        "asked.",
        _BY_ITSELF,
        condition=ConditionType.ARTIFACTS_READY,
    )
    VOLUME_FULL = _ReasonEntry(
        "VolumeFull",
        "A volume that the message names is full.",
        "Enlarge it, or delete what is no longer used.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    START_STUCK = _ReasonEntry(
        "StartStuck",
        "No new phase, and less than 5 % of one, for `spec.serving.startTimeoutSeconds`. It is not killed.",
        "Read its log; delete the pod to start over, or raise the limit.",
    )
    NO_ENGINE = _ReasonEntry(
        "NoEngine",
        "The image lacks the engine of `spec.engine`.",
        "Use an image that has it.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    SERVER_ENDED = _ReasonEntry(
        "ServerEnded",
        "vLLM ended by itself; the message has its last lines.",
        "Read the worker's log; check `spec.compile` against what this version of vLLM takes.",
        condition=ConditionType.LOADED,
    )
    SERVER_NOT_HOOKED = _ReasonEntry(
        "ServerNotHooked",
        "vLLM would load other weights than those that were prepared, and was stopped.",
        "Use an image whose vLLM has the Neuron plugin and the worker's own package.",
        condition=ConditionType.LOADED,
    )
    SERVER_NOT_SUPPORTED = _ReasonEntry(
        "ServerNotSupported",
        "The image has a vLLM that the operator does not load weights into, or not with this engine.",
        "Use an image with the vLLM that the message names.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    # The devices.
    NO_NEURON_DEVICE = _ReasonEntry(
        "NoNeuronDevice",
        "The pod sees no Neuron device, or fewer than its ranks need.",
        "Check the node's driver and device plugin, and that nothing in `spec.worker` asks for fewer devices.",
        condition=ConditionType.LOADED,
    )
    DEVICES_IN_USE = _ReasonEntry(
        "DevicesInUse",
        "Another process held the NeuronCores for as long as `spec.serving.startTimeoutSeconds`.",
        "Find out what runs on the node's devices; a pod that ends lets go of them within a minute.",
        condition=ConditionType.LOADED,
    )
    LOGICAL_CORE_MISMATCH = _ReasonEntry(
        "LogicalCoreMismatch",
        "The logical NeuronCores of the pod are of another size than the model was compiled for.",
        "Set `spec.parallelism.logicalNeuronCoreConfig` to what the message says.",
        condition=ConditionType.LOADED,
    )
    DEVICE_MEMORY_EXHAUSTED = _ReasonEntry(
        "DeviceMemoryExhausted",
        "The devices have not enough memory for weights, key/value cache and code.",
        "Raise the degree, shorten `spec.compile.sequenceLength`, or lower `batchSize`.",
        condition=ConditionType.LOADED,
    )
    NEURON_VERSION_MISMATCH = _ReasonEntry(
        "NeuronVersionMismatch",
        "The node's Neuron driver or runtime can't run what the compiler of the image made.",
        "Update the node's driver, or use an image of its SDK version.",
        condition=ConditionType.LOADED,
    )
    HOST_MEMORY_EXHAUSTED = _ReasonEntry(
        "HostMemoryExhausted",
        "The Neuron Runtime got no memory of the host.",
        "Raise the memory of `spec.worker.resources`; `status.sizing` says what a start needs.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    DEVICE_FAILED = _ReasonEntry(
        "DeviceFailed",
        "A Neuron device reports a hardware error.",
        "Take the node out of service and have it replaced; the pod starts on another one.",
        condition=ConditionType.LOADED,
    )
    NEURON_RUNTIME_FAILED = _ReasonEntry(
        "NeuronRuntimeFailed",
        "NxD Inference or the Neuron Runtime failed in a way that has no name here; the message has its last lines.",
        "Read its log and AWS's Neuron Runtime troubleshooting page.",
        condition=ConditionType.ARTIFACTS_READY,
    )
    # In Events, and those of workers in the notes of a start as well.
    PREPARE_STARTED = _ReasonEntry("PrepareStarted", "An attempt of `prepare` begins.", use=ReasonUse.EVENT)
    WORKER_MADE = _ReasonEntry(
        "WorkerMade", "Everything that a worker needs is there, and its Deployment was made.", use=ReasonUse.EVENT
    )
    WORKER_ROLLED = _ReasonEntry(
        "WorkerRolled", "The worker is replaced by one that is as the spec asks now.", use=ReasonUse.EVENT
    )
    SCALED = _ReasonEntry("Scaled", "The number of workers changes.", use=ReasonUse.EVENT)
    READY = _ReasonEntry("Ready", "A start is over; how long it took, and what it loaded from.", use=ReasonUse.EVENT)
    CLEANUP_STARTED = _ReasonEntry(
        "CleanupStarted", "The NeuronModel goes, and the Job that removes its artifacts was made.", use=ReasonUse.EVENT
    )
    CLEANED_UP = _ReasonEntry("CleanedUp", "Artifacts that nobody else refers to were removed.", use=ReasonUse.EVENT)
    CLEANUP_ABANDONED = _ReasonEntry(
        "CleanupAbandoned",
        "Artifacts may be left behind; the message says why.",
        "Look at the volume: `neuronmodel artifacts list`.",
        use=ReasonUse.EVENT,
    )
    CLAIM_DELETED = _ReasonEntry(
        "ClaimDeleted",
        "The claim that was made from the template was deleted, with what was on it.",
        use=ReasonUse.EVENT,
    )
    STATUS_NOT_WRITTEN = _ReasonEntry(
        "StatusNotWritten",
        "The API server does not take the status, which so says what was true before.",
        "Do as the message says; it is tried again every few seconds.",
        use=ReasonUse.EVENT,
    )
    STRATEGY_CHOSEN = _ReasonEntry(
        "StrategyChosen", "`Auto` chose; `status.strategy` has the figures.", use=ReasonUse.EVENT
    )
    ARTIFACT_QUARANTINED = _ReasonEntry(
        "ArtifactQuarantined",
        "A set failed its check, was set aside with its reason and is built again.",
        "Look at the disk if it happens again; `neuronmodel artifacts list` shows what was set aside.",
        use=ReasonUse.EVENT,
    )
    SHARDS_SEALED = _ReasonEntry(
        "ShardsSealed", "Shards were written behind the first start; the next one reads them.", use=ReasonUse.EVENT
    )
    SEALING_FAILED = _ReasonEntry(
        "SealingFailed",
        "They could not be written. The model goes on answering; the next start shards the checkpoint again.",
        "Do as the message says.",
        use=ReasonUse.NOTE,
    )
    SCRATCH_TIER_FULL = _ReasonEntry(
        "ScratchTierFull",
        "No copy is kept on the scratch volume: a tenth of it is left free, and `sizeLimit` is kept to.",
        "Enlarge the volume or its `sizeLimit`; starts read the slower volume meanwhile.",
        use=ReasonUse.NOTE,
    )
    SCRATCH_TIER_DAMAGED = _ReasonEntry(
        "ScratchTierDamaged",
        "A copy on the scratch volume was damaged and is made again.",
        "Look at the disk.",
        use=ReasonUse.NOTE,
    )
    SCRATCH_TIER_STALE = _ReasonEntry(
        "ScratchTierStale", "A copy was of what is no longer there, and is made again.", use=ReasonUse.NOTE
    )
    SCRATCH_TIER_ABORTED = _ReasonEntry(
        "ScratchTierAborted",
        "A copy on the scratch volume was given up, as the start that made it failed.",
        use=ReasonUse.NOTE,
    )
    SCRATCH_TIER_UNWRITABLE = _ReasonEntry(
        "ScratchTierUnwritable",
        "No copy can be written to the scratch volume.",
        "Check it, and that group 65532 may write to it.",
        use=ReasonUse.NOTE,
    )
    SLOWER_THAN_USUAL = _ReasonEntry(
        "SlowerThanUsual",
        "A start took more than 1.5 times the median of at least three starts of its kind: the same cause, strategy, "
        "cache, tier and instance type. The message names the phase that grew, and what the disk did meanwhile.",
        "Look at the phase that it names: [phases](phases.md) says what makes each long.",
        use=ReasonUse.NOTE,
    )
    # Of a start that failed, where no condition says why.
    SUPERSEDED = _ReasonEntry(
        "Superseded",
        "The spec was changed before the start was over; the next start is that of the change.",
        use=ReasonUse.START,
    )
    POD_REPLACED = _ReasonEntry(
        "PodReplaced", "Its pod went before the worker was ready, and another one came.", use=ReasonUse.START
    )

    # Of `status.strategy`.
    SPECIFIED = _ReasonEntry("Specified", "The spec names it.", use=ReasonUse.STRATEGY)
    NOT_SPECIFIED = _ReasonEntry(
        "NotSpecified",
        "What an absent strategy meant to the version of the operator that prepared this.",
        "Set `spec.sharding.strategy` to `Auto` to have one chosen.",
        use=ReasonUse.STRATEGY,
    )
    NOT_CHOSEN_YET = _ReasonEntry("NotChosenYet", "`prepare` measures and chooses.", _BY_ITSELF, use=ReasonUse.STRATEGY)
    CHOSEN = _ReasonEntry("Chosen", "`Auto` chose, and the worker did not report why.", use=ReasonUse.STRATEGY)
    SHARDS_LOAD_FASTER = _ReasonEntry(
        "ShardsLoadFaster", "`ShardOnCompile`: cheaper, building included.", use=ReasonUse.STRATEGY
    )
    SOURCE_LOADS_FASTER = _ReasonEntry(
        "SourceLoadsFaster", "`ShardOnLoad`: reading shards would take as long or longer.", use=ReasonUse.STRATEGY
    )
    WEIGHTS_CHANGE_OFTEN = _ReasonEntry(
        "WeightsChangeOften",
        "`ShardOnLoad`: shards would load faster, and would be loaded too seldom to pay for building them.",
        use=ReasonUse.STRATEGY,
    )
    TOO_LITTLE_DIFFERENCE = _ReasonEntry(
        "TooLittleDifference", "The former one: the other is better by less than 20 %.", use=ReasonUse.STRATEGY
    )
    TOO_LITTLE_ROOM = _ReasonEntry(
        "TooLittleRoom",
        "`ShardOnLoad`: the shards would not fit the artifacts volume.",
        "Enlarge the volume where shards are wanted.",
        use=ReasonUse.STRATEGY,
    )
    RATES_UNKNOWN = _ReasonEntry(
        "RatesUnknown",
        "The former one, else `ShardOnCompile` if its shards are there, else `ShardOnLoad`: too few bytes were read to "
        "measure a rate, or a probe failed.",
        use=ReasonUse.STRATEGY,
    )
