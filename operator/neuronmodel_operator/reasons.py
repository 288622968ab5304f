"""Every reason of a condition: what it means and what to do. docs/reference/reasons.md is this table."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Reason:
    meaning: str
    remedy: str
    """Empty: nothing is wrong."""
    blocks: bool = False
    """No worker runs until somebody mends it: a start's time meanwhile is its phase `Blocked`."""


BY_ITSELF: Final = "It goes on by itself."

REASONS: Final[dict[str, Reason]] = {
    # As it should be.
    "Serving": Reason("A worker made from the present spec answers.", ""),
    "Resolved": Reason("The checkpoint was opened and makes sense.", ""),
    "Prepared": Reason("Everything that a start loads is in the artifact store.", ""),
    "Placed": Reason("The pod that is needed now has a node.", ""),
    "Loaded": Reason("The worker has the weights in place and has been warmed up.", ""),
    "UpToDate": Reason("The worker is as this operator would make it.", ""),
    "Suspended": Reason("`spec.suspend` is true: no worker is wanted.", "Set it to false to serve."),
    "ScaledToZero": Reason("`spec.serving.replicas` is 0: no worker is wanted.", "Scale to 1 to serve."),
    "Terminating": Reason("The NeuronModel is being deleted.", ""),
    # Under way.
    "WaitingForPrepare": Reason("The Job `prepare` has not opened the source yet.", BY_ITSELF),
    "WaitingForSource": Reason("Building waits for the source; SourceResolved says why.", "See SourceResolved."),
    "WaitingForPlacement": Reason("The Job's pod has no place yet; Scheduled says why.", "See Scheduled."),
    "WaitingForFormerPrepare": Reason("The Job of the former inputs has to end before the next begins.", BY_ITSELF),
    "WaitingForArtifacts": Reason("The worker starts when everything it loads is there.", "See ArtifactsReady."),
    "WaitingForVolume": Reason(
        "A claim waits for its volume, which is being made; the message names the claim.",
        "It goes on by itself; after ten minutes it counts as `ClaimPending`.",
    ),
    "SchedulingGated": Reason(
        "The pod has scheduling gates, which somebody other than the operator put there: a queue such as Kueue, often.",
        "It goes on when they are taken away.",
    ),
    "WaitingForPod": Reason("The pod is being made.", BY_ITSELF),
    "WaitingForNode": Reason("The pod waits for the scheduler.", BY_ITSELF),
    "WaitingForContainer": Reason("The pod has a node; its volumes and image are being fetched.", BY_ITSELF),
    "Preparing": Reason("The Job `prepare` is at work.", "`status.workers` shows how far it is."),
    "TryingImage": Reason(
        "A worker answers, and is to be replaced by one with another image: `prepare` runs with that first.",
        "It goes on by itself; ArtifactsReady says so if the image can't be pulled or does not work.",
    ),
    "ReadingResult": Reason("`prepare` succeeded and its result is being read.", BY_ITSELF),
    "WaitingForDevices": Reason(
        "Another process holds the Neuron devices still, often the pod before; they are tried again and again.",
        BY_ITSELF,
    ),
    "Loading": Reason("The worker loads.", "`status.workers` shows how far it is."),
    "Starting": Reason("The worker is about to answer.", BY_ITSELF),
    "Stopped": Reason("No worker is wanted.", ""),
    "NoWorker": Reason("There is no worker yet.", ""),
    # Updates.
    "NewImage": Reason(
        "The operator is configured for another worker image than the one that runs; an upgrade restarts nobody.",
        "Change the annotation `neuronmodel.dev/restart` when a restart suits.",
    ),
    "NewRendering": Reason(
        "This version of the operator makes the pod otherwise than it runs; an upgrade restarts nobody.",
        "Change the annotation `neuronmodel.dev/restart` when a restart suits.",
    ),
    # Claims, in the condition of what they are for: SourceResolved, ArtifactsReady, Scheduled (scratch, own volumes).
    "ClaimPending": Reason(
        "A claim gets no volume: its class does not exist, no volume has its size or access mode, or the provisioner "
        "fails. The message ends with Kubernetes' own words and what to do.",
        "Provide the class or the volume, or make the claim anew as the cluster can fill it.",
        blocks=True,
    ),
    "ClaimTerminating": Reason(
        "A claim is being deleted, and goes with the last pod that mounts it; a worker that answers goes on.",
        "Make it anew when it has gone, or name another; one that is made from the template is made anew by itself.",
        blocks=True,
    ),
    "ClaimLost": Reason(
        "The PersistentVolume of a claim is gone, with what was on it.",
        "Make the claim anew, or name another.",
        blocks=True,
    ),
    # The source.
    "SourceClaimMissing": Reason(
        "The claim of `spec.model.source` does not exist.", "Make it, or name another.", blocks=True
    ),
    "HostPathNotAllowed": Reason(
        "The spec names a path of the node, and the operator was installed without `allowHostPath`.",
        "Use a claim, or install the operator with `allowHostPath`.",
        blocks=True,
    ),
    "SourceNotFound": Reason(
        "The path is not on the volume, or is no directory.", "Correct `path`, or copy the checkpoint there."
    ),
    "SourceUnreadable": Reason(
        "A file of the source can't be read.", "Check the volume, and that user and group 65532 may read the files."
    ),
    "ConfigMissing": Reason(
        "The directory holds no `config.json`.", "Name the directory of a Hugging Face checkpoint, or complete it."
    ),
    "ConfigInvalid": Reason(
        "`config.json`, or another small file, can't be understood, or contradicts the weights.", "Download it again."
    ),
    "UnknownModelType": Reason(
        "There is no layout for this model type, or the model is multimodal.",
        "Use a family that the message names, or set `spec.model.type`; a multimodal model's language model by itself.",
    ),
    "NotACheckpoint": Reason(
        "Something else lies where the checkpoint or a file of it has to be: a git-lfs pointer, a web page, an "
        "adapter, weights in another format. [What is recognised](checkpoints.md).",
        "Fetch, merge or convert it, as the message says.",
    ),
    "CheckpointQuantized": Reason(
        "The weights are quantized; the message says by which method and what tells so.",
        "Use the checkpoint that it was made from, or dequantize it.",
    ),
    "CheckpointFileMissing": Reason(
        "A file of the checkpoint is missing or not downloaded whole, or a link in its place leads nowhere.",
        "Complete the download, or mount what the links lead to.",
    ),
    "CheckpointTruncated": Reason("A file is shorter than its header says.", "Copy the file again."),
    "CheckpointHeaderInvalid": Reason("A safetensors header lies or is garbled.", "Copy the file again."),
    "TensorMissing": Reason(
        "The model needs a tensor that the checkpoint lacks, or has under another name.",
        "Check that `config.json` belongs to these files; save the model anew where the message says so.",
    ),
    "TensorShapeMismatch": Reason(
        "A tensor has another shape than `config.json` makes it.", "Check that `config.json` belongs to these files."
    ),
    "SourceChanged": Reason(
        "The checkpoint is no longer what was prepared.", "Nothing: `prepare` runs again. Don't write to it meanwhile."
    ),
    # The artifacts.
    "ArtifactsClaimMissing": Reason(
        "The claim of `spec.artifacts` does not exist.", "Make it, or name another.", blocks=True
    ),
    "ArtifactsVolumeFull": Reason(
        "The artifacts volume has not enough room; the message says how much is needed, and what would make room.",
        "Enlarge it, or remove what is no longer used: `neuronmodel artifacts collect`, or the NeuronModels named.",
    ),
    "ArtifactsUnwritable": Reason(
        "The artifacts volume can't be written.", "Check it, and that group 65532 may write to it."
    ),
    "ArtifactsMissing": Reason(
        "What was prepared is not on the artifacts volume: it is a new one, or somebody removed it.",
        "Nothing: `prepare` builds it again.",
    ),
    "ArtifactDamaged": Reason("What was prepared is damaged.", "Nothing: `prepare` sets it aside and builds it again."),
    "ArtifactsOutdated": Reason(
        "What was prepared is of another version than the worker's image reads.", "Nothing: `prepare` builds it again."
    ),
    "ArtifactsTooNew": Reason(
        "A newer version of the worker sealed what this one would read; it is left as it is.",
        "Use the newer worker image, or another artifacts volume.",
    ),
    "ArtifactsUnreadable": Reason("The artifacts volume can't be read.", "Check it, and that group 65532 may read it."),
    "LayoutRefused": Reason(
        "NxD Inference refuses this combination of model, degree and flags, or there is no layout for it.",
        "Choose a degree and flags that the message allows.",
    ),
    "EngineRefused": Reason("The engine does not run this model or these flags.", "Do as the message says."),
    "FlagsRefused": Reason(
        "A field of NeuronConfig is unknown, of the wrong type, or contradicts another; the message names it.",
        "Correct it in `spec.compile` or `spec.parallelism`.",
    ),
    "ModelTypeUnknown": Reason(
        "The NxD Inference of the worker's image has no model of this type.",
        "Set `spec.model.type` to one that the message names, or use an image with a newer NxD Inference.",
    ),
    "DoesNotFit": Reason(
        "The model does not fit the instance type of the node selector; the message has both figures.",
        "Use a larger instance type, another `spec.parallelism`, shorter sequences or smaller batches.",
        blocks=True,
    ),
    "PartialRanks": Reason(
        "A part of the ranks was prepared, and a model answers with all of them.",
        "Remove `startRank` and `localRanks` from `spec.parallelism`.",
    ),
    "ShardsUnexpected": Reason(
        "NxD Inference sharded the model without a complaint and left other files than the ranks'.",
        "Read the log of `prepare`; check the flags that name ranks.",
    ),
    "SdkPlaceholder": Reason(
        "What the image has under the name of a Neuron package is an empty placeholder, not the Neuron SDK.",
        "Use an image that is made from AWS's Neuron images.",
    ),
    "CompilerFailed": Reason(
        "The Neuron compiler failed; the message ends with its last lines and names the log on the artifacts volume.",
        "Read the log; change the flags that it is about, or use an image of another SDK version.",
    ),
    "CompilerOutOfMemory": Reason(
        "The Neuron compiler ran out of memory.",
        "Raise the memory of `spec.prepare.resources`, or let `prepare` run on a larger node.",
    ),
    "BadInput": Reason("The spec, the checkpoint or a flag is wrong.", "Do as the message says."),
    "PrepareFailed": Reason(
        "`prepare` ended without saying why; the message quotes what failed.",
        "Read its log with the command in the message; it is tried again by itself.",
    ),
    "ConfigurationInvalid": Reason(
        "The worker can't read what the operator told it.", "Use a worker image of the operator's version."
    ),
    "TokenizerInvalid": Reason("The tokenizer's files are missing or garbled.", "Complete the download."),
    "TransformersUnsupported": Reason(
        "The image's transformers, by which tokenizers are read, is missing or too old.",
        "Use an image with a version that the message names.",
    ),
    "LogitsNotFinite": Reason(
        "The warm-up computed numbers that are NaN or infinite: the checkpoint's are, or they overflow in their type.",
        "Use a sound checkpoint, or another `torch_dtype`.",
    ),
    "ScratchUnwritable": Reason(
        "The scratch volume can't be written.", "Check it, and that group 65532 may write to it."
    ),
    "ApiKeyInvalid": Reason(
        "The key of `spec.serving.apiKeySecretRef` can't be used.", "Correct the Secret; the worker starts again."
    ),
    "PortTaken": Reason("A port of the worker is taken in its pod.", "Choose another `spec.serving.port`."),
    "WorkerFailed": Reason("The worker failed for a reason of no other name.", "Read its log."),
    # The place.
    "ScratchClaimMissing": Reason(
        "The claim of `spec.scratch` does not exist.", "Make it, or name another.", blocks=True
    ),
    "NoImage": Reason(
        "No image is configured for the engine.", "Set `spec.worker.image`, or the chart's.", blocks=True
    ),
    "Unschedulable": Reason(
        "No node takes the pod: too few devices, no node of the instance type, a taint, a volume elsewhere.",
        "The message is the scheduler's. Free devices, add a node, or change `spec.worker`.",
    ),
    "PodSecurityRefused": Reason(
        "Pod Security Admission refuses the pod.",
        "Its defaults satisfy `restricted`: look at what `spec.worker`, `scratch` or a hostPath add.",
        blocks=True,
    ),
    "QuotaExceeded": Reason(
        "A ResourceQuota leaves no room.", "Raise the quota, or lower `spec.worker.resources`.", blocks=True
    ),
    "LimitRangeRefused": Reason(
        "A LimitRange refuses the pod or the claim.",
        "Set `spec.worker.resources`, or the claim's size, within it.",
        blocks=True,
    ),
    "PodRefused": Reason("The API server or a webhook refuses the pod.", "The message is its own.", blocks=True),
    "WriteRefused": Reason("The API server refuses what the operator makes.", "The message is its own.", blocks=True),
    "WriteFailed": Reason(
        "The API server fails, is overloaded or contradicts itself when an object is written; the message is its own.",
        "Mend what the message names; it is tried again every few seconds.",
        blocks=True,
    ),
    "WebhookFailed": Reason(
        "An admission webhook that has to be asked does not answer, or answers garbage.",
        "Mend the webhook that the message names, or remove its configuration.",
        blocks=True,
    ),
    "NotPermitted": Reason(
        "The operator's account lacks a right; the message names it.",
        "Give it the role that its chart makes (`helm upgrade` puts it back).",
        blocks=True,
    ),
    "NoAnswer": Reason(
        "The API server, or a webhook that it asks, has not answered to a write.",
        "See whether a webhook hangs; it is tried again by itself.",
        blocks=True,
    ),
    "FormerLeaving": Reason(
        "An object of a former NeuronModel of this name is still being removed.",
        "It goes on by itself; if not, look at the object's finalizers.",
    ),
    "CannotLook": Reason(
        "The API server does not let the operator see what belongs to the NeuronModel; what it says may be old.",
        "The message is the API server's own; it is tried again every few seconds.",
    ),
    "SpecUnreadable": Reason(
        "The spec is of another version of the definition than this operator reads; the message names the place.",
        "Use an operator and a definition of one version, or correct the spec.",
        blocks=True,
    ),
    "OperatorFailed": Reason(
        "The operator came upon something that it was not made for; other NeuronModels are not concerned.",
        "Read its log, and tell us; it tries again by itself, ever more rarely up to once a minute.",
    ),
    "NameTaken": Reason(
        "An object of that name belongs to somebody else.",
        "Delete it, or give the NeuronModel another name.",
        blocks=True,
    ),
    "ReplicasNeedSharedVolume": Reason(
        "Several replicas need volumes that several nodes can mount; one is kept.",
        "Use claims with ReadWriteMany (a source may be ReadOnlyMany), or one replica.",
    ),
    # The worker.
    "ImagePullFailed": Reason("The image can't be pulled.", "Correct the image or its pull secret.", blocks=True),
    "ContainerRefused": Reason("The node can't make the container.", "The message is the kubelet's.", blocks=True),
    "VolumeMountFailed": Reason("A volume can't be mounted.", "The message is the kubelet's.", blocks=True),
    "WorkerCrashed": Reason(
        "The worker ended without saying why; Kubernetes starts it again.",
        "The message quotes what failed, and has the command that shows the log.",
    ),
    "Terminated": Reason(
        "The worker was told to stop before it was done: its node or its pod was to go, its probe failed, or somebody "
        "asked.",
        BY_ITSELF,
    ),
    "VolumeFull": Reason("A volume that the message names is full.", "Enlarge it, or delete what is no longer used."),
    "StartStuck": Reason(
        "No new phase, and less than 5 % of one, for `spec.serving.startTimeoutSeconds`. It is not killed.",
        "Read its log; delete the pod to start over, or raise the limit.",
    ),
    "NoEngine": Reason("The image lacks the engine of `spec.engine`.", "Use an image that has it."),
    "ServerEnded": Reason(
        "vLLM ended by itself; the message has its last lines.",
        "Read the worker's log; check `spec.compile` against what this version of vLLM takes.",
    ),
    "ServerNotHooked": Reason(
        "vLLM would load other weights than those that were prepared, and was stopped.",
        "Use an image whose vLLM has the Neuron plugin and the worker's own package.",
    ),
    # The devices.
    "NoNeuronDevice": Reason(
        "The pod sees no Neuron device, or fewer than its ranks need.",
        "Check the node's driver and device plugin, and that nothing in `spec.worker` asks for fewer devices.",
    ),
    "DevicesInUse": Reason(
        "Another process held the NeuronCores for as long as `spec.serving.startTimeoutSeconds`.",
        "Find out what runs on the node's devices; a pod that ends lets go of them within a minute.",
    ),
    "LogicalCoreMismatch": Reason(
        "The logical NeuronCores of the pod are of another size than the model was compiled for.",
        "Set `spec.parallelism.logicalNeuronCoreConfig` to what the message says.",
    ),
    "DeviceMemoryExhausted": Reason(
        "The devices have not enough memory for weights, key/value cache and code.",
        "Raise the degree, shorten `spec.compile.sequenceLength`, or lower `batchSize`.",
    ),
    "NeuronVersionMismatch": Reason(
        "The node's Neuron driver or runtime can't run what the compiler of the image made.",
        "Update the node's driver, or use an image of its SDK version.",
    ),
    "HostMemoryExhausted": Reason(
        "The Neuron Runtime got no memory of the host.",
        "Raise the memory of `spec.worker.resources`; `status.sizing` says what a start needs.",
    ),
    "DeviceFailed": Reason(
        "A Neuron device reports a hardware error.",
        "Take the node out of service and have it replaced; the pod starts on another one.",
    ),
    "NeuronRuntimeFailed": Reason(
        "NxD Inference or the Neuron Runtime failed in a way that has no name here; the message has its last lines.",
        "Read its log and AWS's Neuron Runtime troubleshooting page.",
    ),
}


EVENTS: Final[dict[str, Reason]] = {
    "PrepareStarted": Reason("An attempt of `prepare` begins.", ""),
    "WorkerMade": Reason("Everything that a worker needs is there, and its Deployment was made.", ""),
    "WorkerRolled": Reason("The worker is replaced by one that is as the spec asks now.", ""),
    "Scaled": Reason("The number of workers changes.", ""),
    "Ready": Reason("A start is over; how long it took, and what it loaded from.", ""),
    "CleanupStarted": Reason("The NeuronModel goes, and the Job that removes its artifacts was made.", ""),
    "CleanedUp": Reason("Artifacts that nobody else refers to were removed.", ""),
    "CleanupAbandoned": Reason(
        "Artifacts may be left behind; the message says why.", "Look at the volume: `neuronmodel artifacts list`."
    ),
    "ClaimDeleted": Reason("The claim that was made from the template was deleted, with what was on it.", ""),
    "StatusNotWritten": Reason(
        "The API server does not take the status, which so says what was true before.",
        "Do as the message says; it is tried again every few seconds.",
    ),
    "StrategyChosen": Reason("`Auto` chose; `status.strategy` has the figures.", ""),
    "ArtifactQuarantined": Reason(
        "A set failed its check, was set aside with its reason and is built anew.",
        "Look at the disk if it happens again; `neuronmodel artifacts list` shows what was set aside.",
    ),
    "ShardsSealed": Reason("Shards were written behind the first start; the next one reads them.", ""),
    "SealingFailed": Reason(
        "They could not be written. The model goes on answering; the next start shards the checkpoint again.",
        "Do as the message says.",
    ),
    "ScratchTierFull": Reason(
        "No copy is kept on the scratch volume: a tenth of it is left free, and `sizeLimit` is kept to.",
        "Enlarge the volume or its `sizeLimit`; starts read the slower volume meanwhile.",
    ),
    "ScratchTierDamaged": Reason("A copy on the scratch volume was damaged and is made anew.", "Look at the disk."),
    "ScratchTierStale": Reason("A copy was of what is no longer there, and is made anew.", ""),
    "ScratchTierAborted": Reason("A copy on the scratch volume was given up, as the start that made it failed.", ""),
    "ScratchTierUnwritable": Reason(
        "No copy can be written to the scratch volume.", "Check it, and that group 65532 may write to it."
    ),
}
"""What a start goes on in spite of, or was told: in Events, and the troubles in `status.starts[].notes` too."""

STARTS: Final[dict[str, Reason]] = {
    "Superseded": Reason("The spec was changed before the start was over; the next start is that of the change.", ""),
    "PodReplaced": Reason("Its pod went before the worker was ready, and another one came.", ""),
}
"""Why a start failed, beside the reasons of conditions."""


def as_markdown() -> str:
    lines = [
        "# Reasons",
        "",
        "What stands under `reason` in the conditions of a NeuronModel. The condition's message names the object and",
        "what to do in this case. Whatever is put right is noticed by itself; a failed `prepare` is tried again",
        "after 1, 2, 4 … 30 minutes, and at once with a new value of the annotation `neuronmodel.dev/retry`.",
        "",
        "A NeuronModel that is older than some seconds has a reason. One without, or whose `status.observedGeneration`",
        "stays behind its generation, is seen to by no operator, or its status can't be written (Event",
        "`StatusNotWritten`): [what it can be](../guide.md#all-columns-empty-or-stale-what-it-can-be).",
        "",
        "| reason | meaning | what to do |",
        "| --- | --- | --- |",
    ]
    lines += _rows(REASONS)
    lines += [
        "",
        "## Time that is not in LOAD",
        "With one of these as the reason of Ready a start stands still until somebody mends it. That time is its phase "
        "`Blocked`, which has the reason too:",
        ", ".join(f"`{name}`" for name, reason in REASONS.items() if reason.blocks) + ".",
        "",
        "## In Events and notes alone",
        "What a start goes on in spite of, or what there is to know, stands in Events, and the troubles of a start in "
        "`status.starts[].notes` as well. Notes keep also why attempts of `prepare` failed that others followed.",
        "",
        "| reason | meaning | what to do |",
        "| --- | --- | --- |",
    ]
    lines += [
        *_rows(EVENTS),
        "",
        "## Of a start that failed",
        "`status.starts[].reason` is that of the condition which told of it, or:",
        "",
        "| reason | meaning | what to do |",
        "| --- | --- | --- |",
    ]
    return "\n".join([*lines, *_rows(STARTS)]) + "\n"


def _rows(reasons: dict[str, Reason]) -> list[str]:
    return [f"| `{name}` | {reason.meaning} | {reason.remedy} |" for name, reason in reasons.items()]
