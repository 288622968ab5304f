"""What is compared, on which checkpoints, and the limits that it is held to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hack.bench.checkpoints import Model
from hack.bench.statistics import Limit

GIB = 1 << 30
MEMORY_LIMIT_BYTES = GIB * 7 // 10
COPY = "cp + sync"
RAW_READS = {f"raw read, {threads} thread{'s' * (threads > 1)}": threads for threads in (1, 4, 8)}
# Slow, and further from us than any noise: fewer rounds do.
ROUNDS_OF_TODAYS_LOOP = 3
ROUNDS_OF_FRESH_MEMORY = 5
# A start with nothing sealed writes all shards, and no limit depends on it.
ROUNDS_OF_STARTS = 3
ROUNDS_OF_NETWORKS = 3
THROTTLED = 100_000_000
"""Bytes a second, as a Hub's delivery brings them to a machine that is not next to it."""
DELAY_SECONDS = 0.02
DELAYED_BYTES = 256 << 10
"""Of a range that is waited for so long: of whole ones, eight bring more in that time than two processors can serve."""
IN_FLIGHT = (8, 64)
QUICK_RAW_READ_THREADS = 4


@dataclass(frozen=True)
class Contender:
    """`name` is shown; `module` is in `contenders`; it runs in so many rounds at the most. `memory_limit_bytes` is what
    its peak of anonymous memory is held to. With `reads_shards` its source are the rank files of the case's volume;
    with `fills_memory` it ends with gigabytes of its own, and no other such one runs right after it. It has so many
    `processors`, all where it is None. `processor_seconds_limit` is for a GB of source."""

    name: str
    module: str
    neuron_config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    memory_limit_bytes: int | None = None
    writes: bool = False
    reads_shards: bool = False
    fills_memory: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    processors: int | None = None
    processor_seconds_limit: float | None = None

    def runs_in(self, number: int, rounds: int) -> bool:
        """Whether it runs in this round (from 0): fewer runs than rounds are spread over them."""
        share = min(self.rounds or rounds, rounds)
        return number * share // rounds != (number - 1) * share // rounds


@dataclass(frozen=True)
class Comparison:
    """`contender` against whichever of `against` is fastest: the ratio of their seconds; with an "at least" limit, how
    many times as fast the contender is."""

    title: str
    contender: str
    against: tuple[str, ...]
    limit: Limit | None = None
    speedup: bool = False


@dataclass(frozen=True)
class Case:
    """`rounds` replaces the number of rounds that is asked for. `sealed`: the flags with which the checkpoint is
    prepared on an artifacts volume next to it, before the rounds. `in_memory`: all is on a tmpfs. `headers_only`: there
    are no weights, as none are read."""

    name: str
    title: str
    model: Model
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    rounds: int | None = None
    sealed: Mapping[str, Any] | None = None
    in_memory: bool = False
    headers_only: bool = False


def rounds_of(case: Case, asked: int) -> int:
    return case.rounds or asked


LLAMA_8B = Model(hidden=4096, intermediate=14336, layers=5, query_heads=32, key_value_heads=8, vocabulary=128256)
LLAMA_405B = Model(hidden=16384, intermediate=53248, layers=126, query_heads=128, key_value_heads=8, vocabulary=128256)
# A vocabulary of one row a rank: 4 MB of embeddings and head next to 6.4 GB of layer.
LAYER_OF_405B = replace(LLAMA_405B, layers=1, vocabulary=64)
# Two layers, 12.7 GB, and 3.4 GB of embeddings and head, less than the model's own 8.4 GB.
PART_OF_405B = replace(LAYER_OF_405B, layers=2, vocabulary=51200)
HALF_OF_8B = replace(LLAMA_8B, hidden=2048, intermediate=14336, query_heads=16, layers=1, vocabulary=8016)
HALF_LAYER_OF_405B = replace(LAYER_OF_405B, hidden=8192, intermediate=13312, query_heads=64)
PART_OF_8B = replace(LLAMA_8B, layers=1, vocabulary=16032)
# More than twice what is in flight of S3: shards can only be written while later ranges come.
MORE_OF_8B = replace(PART_OF_8B, layers=5)
MIXTRAL = Model(hidden=4096, intermediate=14336, layers=2, query_heads=32, key_value_heads=8, vocabulary=64, experts=8)

PLAIN: Mapping[str, Any] = {"torch_dtype": "bfloat16", "save_sharded_checkpoint": True}
# The command of AWS's weights sharding guide for Llama 3.1 405B.
COMMAND_OF_405B: Mapping[str, Any] = {
    "torch_dtype": "bfloat16",
    "start_rank_id": 0,
    "local_ranks_size": 64,
    "tp_degree": 64,
    "batch_size": 1,
    "max_context_length": 2048,
    "seq_len": 2048,
    "on_device_sampling_config": {"top_k": 1},
    "fused_qkv": True,
    "sequence_parallel_enabled": True,
    "qkv_kernel_enabled": True,
    "attn_kernel_enabled": True,
    "mlp_kernel_enabled": True,
    "cc_pipeline_tiling_factor": 1,
    "save_sharded_checkpoint": True,
}


# An older processor's instructions, as far as numpy can be told; our own library is the same at every level.
LEVELS: Mapping[str, Mapping[str, str]] = {
    "": {},
    ", numpy": {"NEURONMODEL_NATIVE": "off"},
    ", numpy, no AVX-512": {
        "NEURONMODEL_NATIVE": "off",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    },
}
WAYS = {"to files": "files", "into memory": "memory"}
ROUNDS_OF_STEPS = 3

# With columns to be read: fused, and transposed for the MLP's kernel.
COMMAND_OF_8B: Mapping[str, Any] = {**PLAIN, "tp_degree": 8, "fused_qkv": True, "mlp_kernel_enabled": True}


def plain(degree: int) -> Mapping[str, Any]:
    return {**PLAIN, "tp_degree": degree}


COPYING = Contender(COPY, "copy", writes=True)
RAW_READING = tuple(Contender(name, "raw_read", options={"threads": n}) for name, n in RAW_READS.items())


def to_files(name: str, neuron_config: Mapping[str, Any]) -> Contender:
    return Contender(name, "shard_to_files", neuron_config, memory_limit_bytes=MEMORY_LIMIT_BYTES, writes=True)


def to_memory(name: str, neuron_config: Mapping[str, Any]) -> tuple[Contender, Contender]:
    return (
        Contender(name, "shard_to_memory", neuron_config, {"allocated": True}),
        Contender(
            f"{name}, fresh", "shard_to_memory", neuron_config, {"allocated": False}, rounds=ROUNDS_OF_FRESH_MEMORY
        ),
    )


def todays_loop(name: str, neuron_config: Mapping[str, Any]) -> Contender:
    return Contender(name, "todays_loop", neuron_config, rounds=ROUNDS_OF_TODAYS_LOOP, writes=True)


def dense_contenders(suffix: str, neuron_config: Mapping[str, Any]) -> tuple[Contender, ...]:
    return (
        to_files(f"files{suffix}", neuron_config),
        *to_memory(f"memory{suffix}", neuron_config),
        todays_loop(f"today's loop{suffix}", neuron_config),
    )


def dense_comparisons(suffix: str, files: Limit, memory: Limit, speedup: Limit | None = None) -> tuple[Comparison, ...]:
    return (
        Comparison(f"to files{suffix}, against cp + sync", f"files{suffix}", (COPY,), files),
        Comparison(
            f"to files{suffix}, times as fast as today's loop",
            f"files{suffix}",
            (f"today's loop{suffix}",),
            speedup,
            speedup=True,
        ),
        Comparison(f"into memory{suffix}, against a raw read", f"memory{suffix}", tuple(RAW_READS), memory),
        Comparison(f"into fresh memory{suffix}, against a raw read", f"memory{suffix}, fresh", tuple(RAW_READS)),
    )


def dense(degree: int) -> str:
    return f", tp {degree}"


def cases() -> tuple[Case, ...]:
    """The full benchmark, in the order in which it is run."""
    return (
        Case(
            "8b",
            "Llama 3.1 8B, five layers, no transposing kernels",
            LLAMA_8B,
            (COPYING, *RAW_READING, *(c for degree in (8, 64) for c in dense_contenders(dense(degree), plain(degree)))),
            tuple(c for degree in (8, 64) for c in dense_comparisons(dense(degree), Limit(1.05), Limit(1.15))),
        ),
        Case(
            "405b-layer",
            "Llama 3.1 405B, one whole layer, its command's flags, tp 64",
            LAYER_OF_405B,
            (COPYING, *RAW_READING, *dense_contenders("", COMMAND_OF_405B)),
            dense_comparisons("", Limit(1.25), Limit(1.7), Limit(5, "at least")),
        ),
        _experts(MIXTRAL, "Mixtral 8x7B, two layers, tp 8"),
        Case(
            "memory",
            "Llama 3.1 405B, two layers with ends, its command's flags, tp 64: the memory alone",
            PART_OF_405B,
            (to_files("files", COMMAND_OF_405B),),
            (),
            rounds=1,
        ),
        _in_memory("tmpfs-405b", "its command's flags", COMMAND_OF_405B, (1.6, 1.0), (4, 6)),
        _in_memory("tmpfs-plain", "no transposing kernels", plain(64), (1.1, 0.6), None),
        _loads_in_memory(),
        _scheduler(),
        _artifacts(LLAMA_8B, "Llama 3.1 8B, five layers, tp 8, sealed on an artifacts volume, and started from there"),
        _network("hub-throttled", "from_hub", PART_OF_8B, "a layer", "a Hub that gives 100 MB/s", THROTTLED),
        _network("hub", "from_hub", PART_OF_8B, "a layer", "a Hub on this machine", None),
        _network("s3-throttled", "from_s3", MORE_OF_8B, "five layers", "a bucket that gives 100 MB/s", THROTTLED),
        _delayed("s3-delay", "a layer of Llama 3.1 8B from a bucket that answers after 20 ms, in ranges of 256 KiB"),
    )


def _in_memory(
    name: str,
    flags_title: str,
    flags: Mapping[str, Any],
    processor_seconds: tuple[float, float],
    speedups: tuple[float, float] | None,
) -> Case:
    """Where no disk hides what computing costs, to files and into memory, and step by step."""
    loop = todays_loop("today's loop", flags)
    files = replace(to_files("files", flags), processor_seconds_limit=processor_seconds[0])
    memory = replace(to_memory("memory", flags)[0], processor_seconds_limit=processor_seconds[1])
    alone = {
        each.name: replace(each, name=f"{each.name}, one processor", processors=1, processor_seconds_limit=None)
        for each in (files, memory)
    }
    raw = RAW_READING[1]
    raw_alone = replace(raw, name=f"{raw.name}, one processor", processors=1)
    levels = LEVELS if speedups else {"": LEVELS[""]}
    steps = [
        Contender(
            f"{into}, steps{title}",
            "steps",
            flags,
            {"into": into},
            rounds=ROUNDS_OF_STEPS,
            writes=into == "files",
            environment=level,
        )
        for into in WAYS.values()
        for title, level in levels.items()
    ]
    return Case(
        name,
        f"Llama 3.1 405B, three layers at half the width, {flags_title}, tp 64, source and target in memory",
        replace(HALF_LAYER_OF_405B, layers=3),
        (COPYING, raw, raw_alone, files, memory, *alone.values(), loop, *steps),
        (
            Comparison("to files, against cp + sync", "files", (COPY,)),
            Comparison("into memory, against a raw read", "memory", (raw.name,)),
            Comparison("a raw read, times as fast as on one processor", raw.name, (raw_alone.name,), speedup=True),
            *(
                Comparison(
                    f"{title}, times as fast as today's loop",
                    way,
                    (loop.name,),
                    Limit(speedups[place], "at least") if speedups else None,
                    speedup=True,
                )
                for place, (title, way) in enumerate(WAYS.items())
            ),
            *(
                Comparison(
                    f"{title}, times as fast as on one processor",
                    way,
                    (alone[way].name,),
                    Limit(1.85, "at least"),
                    speedup=True,
                )
                for title, way in WAYS.items()
            ),
        ),
        in_memory=True,
    )


def _loads_in_memory() -> Case:
    """The loads of `artifacts`, where no disk is between them."""
    loads = _loads(plain(8))
    return Case(
        "tmpfs-loads",
        "Llama 3.1 8B, one layer, a quarter of the vocabulary, tp 8, source and artifacts in memory",
        replace(LLAMA_8B, layers=1, vocabulary=32064),
        loads,
        (_behind(loads),),
        sealed=plain(8),
        in_memory=True,
    )


def _scheduler() -> Case:
    """What queue and memory cost by themselves, with as many threads as a machine of 192 processors would have if
    nothing bounded them."""
    options = {"threads": 192, "bytes_per_second": 10e9}
    ours, alone = "192 threads, nothing to do", "192 threads, no queue"
    return Case(
        "scheduler",
        "Llama 3.1 405B, twelve layers, its command's flags, tp 64, simulated drives of 10 GB/s, no-op kernels",
        replace(LAYER_OF_405B, layers=12),
        (
            Contender(ours, "simulated", COMMAND_OF_405B, options, processor_seconds_limit=0.002),
            Contender(alone, "simulated", COMMAND_OF_405B, {**options, "alone": True}),
        ),
        (Comparison("a run's queue, against the same reads without it", ours, (alone,), Limit(1.05)),),
        rounds=ROUNDS_OF_STEPS,
        headers_only=True,
    )


def _network(name: str, module: str, model: Model, part: str, where: str, bytes_per_second: int | None) -> Case:
    """The server is a process on the same processors. Only where it is throttled it is no part of what is measured."""
    download = "ranged download"
    into = {way: {"into": way, "bytes_per_second": bytes_per_second} for way in ("nothing", "memory", "files")}
    limit = Limit(1.15) if bytes_per_second else None
    ways = {"memory": COMMAND_OF_8B, "files": COMMAND_OF_8B}
    return Case(
        name,
        f"{part} of Llama 3.1 8B from {where}, tp 8",
        model,
        (
            Contender(download, module, options=into["nothing"]),
            *(Contender(way, module, flags, into[way], writes=way == "files") for way, flags in ways.items()),
        ),
        tuple(Comparison(f"to {way}, against a ranged download", way, (download,), limit) for way in ways),
        rounds=ROUNDS_OF_NETWORKS,
    )


def _delayed(name: str, title: str) -> Case:
    """What waits does not compute: more at a time bring more, up to what the processors serve and read."""
    few, many = (f"{number} ranges in flight" for number in IN_FLIGHT)
    options = {"into": "nothing", "part_bytes": DELAYED_BYTES, "delay_seconds": DELAY_SECONDS}
    return Case(
        name,
        title,
        PART_OF_8B,
        tuple(
            Contender(name, "from_s3", options={**options, "in_flight": number})
            for name, number in zip((few, many), IN_FLIGHT, strict=True)
        ),
        (Comparison(f"{many}, times as fast as {IN_FLIGHT[0]}", many, (few,), Limit(1.5, "at least"), speedup=True),),
        rounds=ROUNDS_OF_NETWORKS,
    )


def _artifacts(model: Model, title: str) -> Case:
    config = plain(8)
    full, starts = "artifacts verify --full", {"sealed": "start, all sealed", "bare": "start, nothing sealed"}
    loads = _loads(config)
    return Case(
        "artifacts",
        title,
        model,
        (
            *(replace(contender, reads_shards=True) for contender in RAW_READING),
            Contender(full, "verify_set", options={"command": "artifacts"}, reads_shards=True),
            Contender(
                "verify --full", "verify_set", options={"command": "verify"}, reads_shards=True, rounds=ROUNDS_OF_STARTS
            ),
            Contender(starts["sealed"], "start", config, {"sealed": True}, rounds=ROUNDS_OF_STARTS, fills_memory=True),
            Contender(
                starts["bare"],
                "start",
                config,
                {"sealed": False},
                rounds=ROUNDS_OF_STARTS,
                writes=True,
                fills_memory=True,
            ),
            *loads,
        ),
        (
            Comparison("full verification, against a raw read", full, tuple(RAW_READS), Limit(1.1)),
            Comparison("full verification of a folder, against a raw read", "verify --full", tuple(RAW_READS)),
            Comparison(
                "start, all sealed, times as fast as with nothing sealed",
                starts["sealed"],
                (starts["bare"],),
                speedup=True,
            ),
            _behind(loads),
        ),
        sealed=config,
    )


def _loads(config: Mapping[str, Any]) -> tuple[Contender, Contender]:
    """One that will seal behind, and one that shards on load."""
    return (
        Contender("load, sealing behind", "load", config, {"behind": True}, fills_memory=True),
        Contender("load, ShardOnLoad", "load", config, {"behind": False}, fills_memory=True),
    )


def _behind(loads: tuple[Contender, Contender]) -> Comparison:
    behind, bare = loads
    return Comparison("load, sealing behind, against ShardOnLoad", behind.name, (bare.name,), Limit(1.1))


def _experts(model: Model, title: str) -> Case:
    config = plain(8)
    return Case(
        "moe",
        title,
        model,
        (COPYING, to_files("files", config), todays_loop("today's loop", config)),
        (
            Comparison("to files, against cp + sync", "files", (COPY,), Limit(1.4)),
            Comparison("to files, times as fast as today's loop", "files", ("today's loop",), speedup=True),
        ),
    )


def narrowed(case: Case, keep: Callable[[Contender], bool]) -> Case:
    """The case with these contenders alone, and the comparisons that they suffice for."""
    kept = tuple(contender for contender in case.contenders if keep(contender))
    names = {contender.name for contender in kept}
    comparisons = tuple(each for each in case.comparisons if each.contender in names and names & set(each.against))
    return replace(case, contenders=kept, comparisons=comparisons)


QUICK_MODELS = {
    "8b": ("Llama 3.1 8B, one layer, a quarter of the vocabulary", replace(LLAMA_8B, layers=1, vocabulary=32064)),
    "405b-layer": (
        "Llama 3.1 405B, one layer at half the width, its command's flags, tp 64",
        HALF_LAYER_OF_405B,
    ),
    "moe": ("Mixtral 8x7B, one layer with two experts, tp 8", replace(MIXTRAL, layers=1, experts=2)),
    "artifacts": (
        "Llama 3.1 8B, one layer, a quarter of the vocabulary, sealed, and started from there",
        replace(LLAMA_8B, layers=1, vocabulary=32064),
    ),
    "hub-throttled": ("half a layer of Llama 3.1 8B from a Hub that gives 100 MB/s", HALF_OF_8B),
    "hub": ("half a layer of Llama 3.1 8B from a Hub on this machine", HALF_OF_8B),
    "s3-delay": ("half a layer of Llama 3.1 8B from a bucket that answers after 20 ms", HALF_OF_8B),
}


def quick_cases() -> tuple[Case, ...]:
    """The same with less than a gigabyte each and fewer contenders: a look, no proof. Without a throttled bucket: a
    gigabyte is in flight at once, and nothing is written meanwhile."""
    by_name = {case.name: narrowed(case, _in_a_quick_look) for case in cases()}
    return tuple(
        replace(by_name[name], title=title, model=model, contenders=tuple(map(_once_if_slow, by_name[name].contenders)))
        for name, (title, model) in QUICK_MODELS.items()
    )


def _in_a_quick_look(contender: Contender) -> bool:
    if contender.module == "raw_read":
        return bool(contender.options["threads"] == QUICK_RAW_READ_THREADS)
    return not contender.name.endswith((dense(8), ", fresh"))


def _once_if_slow(contender: Contender) -> Contender:
    return replace(contender, rounds=1) if contender.module == "todays_loop" else contender
