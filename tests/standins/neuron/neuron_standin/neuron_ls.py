"""`neuron-ls`, as its guide describes it: JSON with `--json-output`, else a table of the essentials."""

import json
import sys

from . import machine

# Four by four, each connected to the adjacent ones, wrapped around.
SIDE = 4


def main() -> int:
    if machine.devices() == 0:
        print("neuron-ls: no Neuron device was found; is the driver loaded?", file=sys.stderr)
        return 1
    found = [_device(number) for number in range(machine.devices())]
    if {"--json-output", "-j"} & set(sys.argv[1:]):
        print(json.dumps(found, indent=4))
        return 0
    print("instance-type: trn2.48xlarge")
    print(f"logical-neuroncore-config: {machine.logical_core_config()}")
    for device in found:
        print(f"| {device['neuron_device']} | {device['nc_count']} | 96 GB | {device['bdf']} |")
    return 0


def _device(number: int) -> dict[str, object]:
    cores = machine.CORES_PER_DEVICE // machine.logical_core_config()
    return {
        "neuron_device": number,
        "bdf": f"{0x50 + number:02x}:00.0",
        "connected_to": _connected(number),
        "nc_count": cores,
        "logical_neuroncore_config": machine.logical_core_config(),
        "memory_size": machine.DEVICE_BYTES,
        "neuroncore_ids": list(range(number * cores, (number + 1) * cores)),
        "neuron_processes": [],
    }


def _connected(number: int) -> list[int] | None:
    if machine.devices() < SIDE * SIDE:
        return None
    row, column = divmod(number, SIDE)
    steps = ((-1, 0), (0, -1), (1, 0), (0, 1))
    return [(row + down) % SIDE * SIDE + (column + right) % SIDE for down, right in steps]
