"""Failures of the runtime distinguished by what it raised and logged, each with what to do."""

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.engines import DevicesInUse
from neuronmodel_worker.engines.nxdi.neuron_failures import (
    DeviceFailed,
    DeviceMemoryExhausted,
    HostMemoryExhausted,
    LogicalCoreMismatch,
    NeuronRuntimeFailed,
    NeuronVersionMismatch,
    NoNeuronDevice,
    classify,
    last_lines,
)
from neuronmodel_worker.failures import WorkerFailure

INITIALIZATION = "RuntimeError: The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "ERROR NRT:nrt_allocate_neuron_cores  NeuronCore(s) not available - Requested:2 Available:0\n"
            f"{INITIALIZATION}",
            DevicesInUse,
        ),
        (
            "ERROR NRT:nrt_allocate_neuron_cores  Logical Neuron Core(s) not available - Requested:64 Available:0 "
            f"Logical Core size:2\n{INITIALIZATION}",
            DevicesInUse,
        ),
        ("RuntimeError: nrt_execute status=1005 message=NRT_EXEC_NC_BUSY", DevicesInUse),
        ("RuntimeError: nrt_load_collectives status=9", DevicesInUse),
        ("NRT_LOAD_NOT_ENOUGH_NC", DevicesInUse),
        (f"ERROR TDRV:tdrv_get_dev_info  No neuron device available\n{INITIALIZATION}", NoNeuronDevice),
        (
            "RuntimeError: Neuron runtime cannot be initialized; cannot determine the number of available NeuronCores",
            NoNeuronDevice,
        ),
        (
            "NRT:nrt_load_util Logical NeuronCore config of NEFF (1) and runtime (2) differ\n"
            "RuntimeError: nrt_load_collectives status=2",
            LogicalCoreMismatch,
        ),
        ("virtual core size 1 does not match that of the NEFF", LogicalCoreMismatch),
        ("RuntimeError: nrt_load_collectives status=10", NeuronVersionMismatch),
        ("NRT_UNSUPPORTED_NEFF_VERSION", NeuronVersionMismatch),
        ("RuntimeError: nrt_tensor_allocate status=11", HostMemoryExhausted),
        ('RuntimeError: nrt_tensor_allocate status=4 message="Allocation Failure"', DeviceMemoryExhausted),
        ("TDRV:dmem_alloc_internal Failed to alloc DEVICE memory: 25769803776", DeviceMemoryExhausted),
        (
            "TDRV:log_dev_mem Failed to allocate 64.000MB (usage: tensors) on ND 0:NC 0, current utilization:\n"
            "* tensors: 15.938GB\nRuntimeError: load failed",
            DeviceMemoryExhausted,
        ),
        ("NEFF:neff_parse NEFF version mismatch supported: 1.0 received: 2.0", NeuronVersionMismatch),
        ("RuntimeError: nrt_execute status=1201 message=NRT_EXEC_HW_ERR_HBM_UE", DeviceFailed),
        ("status code: 101", DeviceFailed),
        ("NRT_TIMEOUT", DeviceFailed),
        ("RuntimeError: nrt_load_collectives status=1 message=Non specific failure", NeuronRuntimeFailed),
        ("ValueError: status=400 is none of the runtime's", NeuronRuntimeFailed),
        ("status=10110 is none either", NeuronRuntimeFailed),
    ],
)
def test_each_failure_is_distinguished_and_quotes_the_librarys_last_lines(text: str, kind: type[WorkerFailure]) -> None:
    failure = classify(text)
    assert type(failure) is kind
    assert text.splitlines()[-1] in str(failure)


def test_only_what_a_change_can_mend_is_final() -> None:
    final = (LogicalCoreMismatch, DeviceMemoryExhausted, NeuronVersionMismatch)
    others = (DevicesInUse, NoNeuronDevice, HostMemoryExhausted, DeviceFailed, NeuronRuntimeFailed)
    assert {kind.exit_code for kind in final} == {exits.BAD_INPUT}
    assert not {kind.exit_code for kind in others} & exits.FINAL


def test_the_lines_that_say_something_come_before_the_stack_they_were_raised_from() -> None:
    text = "RuntimeError: nrt_execute status=101\n\nAt:\n" + "  /opt/site-packages/error.py(68): execute\n" * 20
    assert last_lines(text) == "RuntimeError: nrt_execute status=101"


def test_where_no_line_says_anything_the_last_lines_are_quoted() -> None:
    assert last_lines("one\n\ntwo\n") == "one | two"


def test_a_long_text_is_cut_at_its_beginning() -> None:
    quoted = last_lines("error " + "x" * 5000 + " end")
    assert len(quoted) < 1000
    assert quoted.startswith("…")
    assert quoted.endswith(" end")


def test_the_compilers_words_are_not_pushed_out_by_a_traceback() -> None:
    text = """compiling
[F134] neuronx-cc terminated abnormally
Traceback (most recent call last):
  File "/a/b.py", line 3, in compile
    run(
        command)
    ^^^^^
  File "/a/c.py", line 4, in run
    raise RuntimeError("neuronx-cc failed")
RuntimeError: neuronx-cc failed with 70

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/a/d.py", line 9, in main
    work()
CalledProcessError: returned non-zero exit status 70
"""
    assert last_lines(text) == (
        "[F134] neuronx-cc terminated abnormally | RuntimeError: neuronx-cc failed with 70 | "
        "CalledProcessError: returned non-zero exit status 70"
    )
