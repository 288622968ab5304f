"""What is quoted of a crashed container's log: what failed, and not where the log happened to end."""

import re
from dataclasses import dataclass

import pytest

from neuronmodel_operator.decide.crash_logs import MAX_GIST, gist


@dataclass(frozen=True)
class Case:
    name: str
    log: str
    gist: str


PYTHON = (
    Case(
        "a Python without its library",
        """\
  sys.prefix = '/nope'
  sys.exec_prefix = '/nope'
  sys.path = [
    '/nope/lib/python311.zip',
    '/nope/lib/python3.11/lib-dynload',
  ]
Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem encoding
Python runtime state: core initialized
ModuleNotFoundError: No module named 'encodings'

Current thread 0x00007f8d045cfb80 (most recent call first):
  <no Python frame>
""",
        "Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem encoding; "
        "ModuleNotFoundError: No module named 'encodings'",
    ),
    Case(
        "a Python with an invalid setting",
        'Fatal Python error: config_init_hash_seed: PYTHONHASHSEED must be "random" or an integer\n'
        "Python runtime state: preinitialized\n\n",
        'Fatal Python error: config_init_hash_seed: PYTHONHASHSEED must be "random" or an integer',
    ),
    Case(
        "faulthandler",
        """\
2026-11-28 16:50:03,123 INFO reading rank 3
Fatal Python error: Segmentation fault

Thread 0x00007f1bb59c3000 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait

Current thread 0x00007f1bb59c3b80 (most recent call first):
  File "/usr/lib/python3/dist-packages/torch/nn/functional.py", line 519 in linear

Extension modules: numpy.core._multiarray_umath, torch._C (total: 2)
""",
        "Fatal Python error: Segmentation fault, in linear (nn/functional.py:519)",
    ),
    Case(
        "a traceback",
        """\
Traceback (most recent call last):
  File "/opt/app/start.py", line 12, in <module>
    main()
  File "/opt/app/start.py", line 8, in main
    model.load_state_dict(state)
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
RuntimeError: Error(s) in loading state_dict for Llama:
\tMissing key(s) in state_dict: "lm_head.weight".
\tsize mismatch for norm.weight: torch.Size([576]) from checkpoint, torch.Size([512]) in the model.
""",
        'RuntimeError: Error(s) in loading state_dict for Llama: Missing key(s) in state_dict: "lm_head.weight". '
        "size mismatch for norm.weight: torch.Size([576]) from checkpoint, torch.Size([512]) in the model.",
    ),
    Case(
        "a traceback that is cut at its front",
        'odules/module.py", line 1501, in _call_impl\n    return forward_call(*args)\n'
        '  File "/x.py", line 3, in forward\n    raise OSError(28, "No space left on device")\n'
        "OSError: [Errno 28] No space left on device: '/scratch/tmpk3v9_x2a/model.pt'\n",
        "OSError: [Errno 28] No space left on device: '/scratch/tmp…/model.pt'",
    ),
    Case(
        "an exception from another",
        'Traceback (most recent call last):\n  File "a.py", line 2, in f\nKeyError: 5\n\n'
        "During handling of the above exception, another exception occurred:\n\n"
        'Traceback (most recent call last):\n  File "a.py", line 4, in <module>\nValueError: no such rank\n',
        "ValueError: no such rank",
    ),
    Case(
        "an exception group",
        """\
  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 6, in <module>
  |     asyncio.run(m())
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "a.py", line 3, in a
    |     raise ConnectionError("no route to 10.0.0.7:41873")
    | ConnectionError: no route to 10.0.0.7:41873
    +------------------------------------
""",
        "ConnectionError: no route to 10.0.0.7:…",
    ),
    Case(
        "a class of an exception without a message, by its module",
        'Traceback (most recent call last):\n  File "a.py", line 3, in a\nmy.pack-age.Odd\n',
        "my.pack-age.Odd",
    ),
    Case(
        "a last word after a thread's traceback",
        'Exception in thread Thread-1 (f):\nTraceback (most recent call last):\n  File "a.py", line 3, in f\n'
        "KeyError: 'x'\ncannot go on\n",
        "KeyError: 'x'; cannot go on",
    ),
    Case(
        "what Python complains of as it ends",
        'Traceback (most recent call last):\n  File "a.py", line 3, in f\nTypeError: not a tensor\n'
        "Exception ignored in: <function Pool.__del__ at 0x7f60e7a3c4a0>\nTraceback (most recent call last):\n"
        '  File "/usr/lib/python3.11/multiprocessing/pool.py", line 268, in __del__\n'
        "ResourceWarning: unclosed running multiprocessing pool\n",
        "TypeError: not a tensor",
    ),
    Case(
        "vLLM's engine, before each line its process and the time",
        """\
(EngineCore_DP0 pid=163) ERROR 09-12 08:11:03 [core.py:718] Traceback (most recent call last):
(EngineCore_DP0 pid=163) ERROR 09-12 08:11:03 [core.py:718]   File "/vllm/v1/engine/core.py", line 709, in run
(EngineCore_DP0 pid=163) ERROR 09-12 08:11:03 [core.py:718]     engine = EngineCoreProc(*args)
(EngineCore_DP0 pid=163) ERROR 09-12 08:11:03 [core.py:718] ValueError: No available memory for the cache blocks.
""",
        "ValueError: No available memory for the cache blocks.",
    ),
    Case(
        "PyTorch with frames of C++",
        'Traceback (most recent call last):\n  File "a.py", line 9, in f\n    x @ y\n'
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)\n"
        "Exception raised from addmm at ../aten/src/ATen/native/LinearAlgebra.cpp:34 (most recent call first):\n"
        "frame #0: c10::Error::Error(std::string) + 0x57 (0x7f1 in /usr/lib/libc10.so)\n",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    ),
)

OTHERS = (
    Case(
        "a Go program",
        """\
2026/11/28 16:50:03 listening
panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x49e18c]

goroutine 1 [running]:
main.f(...)
\t/src/p.go:4
main.main()
\t/src/p.go:5 +0x4c
exit status 2
""",
        "panic: runtime error: invalid memory address or nil pointer dereference",
    ),
    Case(
        "a Go program that waits for nobody",
        "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\nmain.main()\n\t/p.go:2\n",
        "fatal error: all goroutines are asleep - deadlock!",
    ),
    Case(
        "C++",
        "loading\nterminate called after throwing an instance of 'std::runtime_error'\n"
        "  what():  shape mismatch:\n  expected [2]\nAborted (core dumped)\n",
        "terminate called after throwing an instance of 'std::runtime_error' what(): shape mismatch: expected [2]",
    ),
    Case(
        "C++ below Python",
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
        "Fatal Python error: Aborted\n\nCurrent thread 0x00007f1bb59c3b80 (most recent call first):\n"
        '  File "/opt/nxd/load.py", line 7 in load\n',
        "terminate called after throwing an instance of 'std::bad_alloc' what(): std::bad_alloc; "
        "Fatal Python error: Aborted, in load (nxd/load.py:7)",
    ),
    Case("glibc", "reading\nfree(): double free detected in tcache 2\n", "free(): double free detected in tcache 2"),
    Case(
        "an assertion of C",
        "python3: malloc.c:2617: sysmalloc: Assertion `(old_top == initial_top (av))' failed.\nAborted\n",
        "python3: malloc.c:2617: sysmalloc: Assertion `(old_top == initial_top (av))' failed.",
    ),
    Case(
        "a library that is missing",
        "neuronmodel: error while loading shared libraries: libnrt.so.1: cannot open shared object file\n",
        "neuronmodel: error while loading shared libraries: libnrt.so.1: cannot open shared object file",
    ),
    Case(
        "Rust",
        "thread 'main' (740) panicked at src/main.rs:4:9:\nno space\nstack backtrace:\n"
        "   0: __rustc::rust_begin_unwind\n             at /rustc/598/library/std/src/panicking.rs:689:5\n"
        "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n",
        "thread 'main' panicked at src/main.rs:4:9: no space",
    ),
    Case(
        "another architecture",
        "exec /usr/bin/neuronmodel: exec format error\n",
        "exec /usr/bin/neuronmodel: exec format error",
    ),
    Case("a shell's not found", "/start.sh: 3: neuronmodel: not found\n", "/start.sh: 3: neuronmodel: not found"),
    Case("another shell's", "bash: line 1: neuronmodel: command not found\n", "bash: neuronmodel: command not found"),
    Case(
        "a processor without an instruction",
        "loading kernels for AVX-512\n/start.sh: line 2:    17 Illegal instruction     (core dumped) neuronmodel s\n",
        "loading kernels for AVX-512; /start.sh: line 2: Illegal instruction (core dumped) neuronmodel s",
    ),
    Case(
        "the container runtime",
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        "unable to start container process: error during container init: exec: "
        '"neuronmodel": executable file not found in $PATH: unknown',
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        "unable to start container process: error during container init: exec: "
        '"neuronmodel": executable file not found in $PATH: unknown',
    ),
    Case(
        "the Neuron Runtime",
        "2026-Nov-28 17:13:32.123456     7:31    ERROR  NRT:nrt_init  Unable to determine Neuron Driver version\n",
        "ERROR NRT:nrt_init Unable to determine Neuron Driver version",
    ),
    Case("klog", "E1128 16:50:00.123456   4711 server.go:17] cannot bind: in use\n", "cannot bind: in use"),
    Case("JSON", '{"level":"error","ts":1764348603.1,"msg":"no such model"}\n', "no such model"),
    Case("a plain last line", "starting\nThe licence has expired.\n", "The licence has expired."),
    Case(
        "a last line that says nothing",
        "starting\nThe licence has expired.\nexiting\n\n",
        "The licence has expired.; exiting",
    ),
    Case(
        "a bar of progress, and colours",
        "\x1b[31mThe checkpoint has no file 3.\x1b[0m\nLoading:  43%|████▎     | 3/7 [00:04<00:06]\r",
        "The checkpoint has no file 3.",
    ),
    Case("a report", '{"podUid":"u","specHash":"h","stage":"Serve","state":"Failed"}', ""),
    Case("a report that is cut", '{"podUid":"u","specHash":"h","sta', ""),
    Case("nothing", "\n  \n----\n", ""),
)


@pytest.mark.parametrize("case", [*PYTHON, *OTHERS], ids=lambda case: case.name.replace(" ", "-"))
def test_what_failed_is_quoted(case: Case) -> None:
    assert gist(case.log) == case.gist


@pytest.mark.parametrize(
    "line",
    [
        "the child, process {0}, failed",
        "/start.sh: line 2:  {0} Killed              neuronmodel serve",
        "pid={0}: cannot map 0x7f8d{0}cfb80",
        "thread {0} died at 2026-11-28T16:50:0{1}.{0}Z after {1}.{0} s",
        "neuronmodel[{0}]: gave up at 16:50:0{1}",
        "cannot lock /scratch/tmpab3{1}ef_9/lock of f81d4fae-7dec-11d0-a765-00a0c91e{0}",
        "no answer from 127.0.0.1:4{0}",
        "E1128 16:50:00.12345{1} {0} server.go:17] cannot bind",
        "Process Process-{1}: gave up",
        "sh: {1}: neuronmodel: not found",
    ],
)
def test_runs_that_end_alike_are_quoted_alike(line: str) -> None:
    former, latter = (gist(f"starting\n{line.format(*run)}\n") for run in ((4711, 3), (9216, 8)))
    assert former == latter != ""


@pytest.mark.parametrize(
    "line", ["rank 3 of 64 wants 871,000,000,000 bytes", "size [576] at /models/llama-3.1/config.json:27, after 600 s"]
)
def test_figures_that_say_something_stay(line: str) -> None:
    assert gist(line) == line


def test_it_is_one_short_line() -> None:
    long = "ValueError: " + "very " * 200
    short = gist(f'Traceback (most recent call last):\n  File "a.py", line 3, in f\n{long}\nthe model is not loaded\n')
    assert len(short) <= MAX_GIST
    assert short.startswith("ValueError: very")
    assert short.endswith("; the model is not loaded")
    assert not re.search(r"\s\s|\n", short)
    assert len(gist("word " * 500)) <= MAX_GIST
