"""Which Neuron devices a pod sees, and whether they are enough."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api.machines import MACHINES
from neuronmodel_api.report import Devices
from neuronmodel_worker.engines.nxdi.hardware import Hardware, find_devices
from neuronmodel_worker.engines.nxdi.neuron_failures import LogicalCoreMismatch, NoNeuronDevice


@pytest.fixture(autouse=True)
def _no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def hardware(root: Path, devices: int, driver: str | None = "2.26.5.0") -> Hardware:
    (root / "dev").mkdir(parents=True, exist_ok=True)
    for name in (*(f"neuron{number}" for number in range(devices)), "neuron_helper", "null"):
        (root / "dev" / name).touch()
    if driver:
        (root / "sys/module/neuron").mkdir(parents=True)
        (root / "sys/module/neuron/version").write_text(f"{driver}\n")
    return Hardware(root)


def found(of: Hardware, ranks: int, **given: Any) -> Devices:
    settings: dict[str, Any] = {"logical_cores": 2, "machine": None, "platform": "trn2", "versions": {}, **given}
    return find_devices(of, ranks=ranks, **settings)


def test_sixteen_devices_make_sixty_four_logical_cores(tmp_path: Path) -> None:
    machine, versions = MACHINES["trn2.48xlarge"], {"neuronx-cc": "2.26"}
    devices = found(hardware(tmp_path, 16), 64, machine=machine, versions=versions)
    assert (devices.count, devices.cores, devices.logical_core_config) == (16, 64, 2)
    assert (devices.driver, devices.versions) == ("2.26.5.0", versions)


def test_an_unknown_machine_counts_as_its_platform(tmp_path: Path) -> None:
    of = hardware(tmp_path, 16, driver=None)
    assert found(of, 128, logical_cores=1).cores == 128
    assert found(of, 32, platform="trn1", logical_cores=None).cores == 32
    assert found(of, 1).driver is None


def test_the_platforms_own_logical_cores_count_where_none_are_asked_for(tmp_path: Path) -> None:
    assert found(hardware(tmp_path, 1), 4, logical_cores=None).logical_core_config == 2


def test_too_few_are_refused_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(NoNeuronDevice, match=r"64 ranks need .* the 1 Neuron devices of this pod make 4 \(8 physical"):
        found(hardware(tmp_path, 1), 64)


def test_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoNeuronDevice, match="no Neuron device in this pod"):
        found(hardware(tmp_path, 0), 1)


def test_logical_cores_that_the_machine_does_not_make_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogicalCoreMismatch, match=r"trn1\.32xlarge makes logical cores of 1 physical"):
        found(hardware(tmp_path, 16), 32, machine=MACHINES["trn1.32xlarge"], platform="trn1")


def neuron_ls(folder: Path, says: str) -> None:
    folder.mkdir()
    (folder / "neuron-ls").write_text(f"#!/bin/sh\n[ \"$1\" = --json-output ] && echo '{says}'\n")
    (folder / "neuron-ls").chmod(0o755)


def test_where_there_are_no_files_the_tools_are_asked(tmp_path: Path) -> None:
    neuron_ls(tmp_path / "bin", json.dumps([{"neuron_device": 0, "nc_count": 8}, {"neuron_device": 1, "nc_count": 8}]))
    assert found(hardware(tmp_path, 0), 8).count == 2


@pytest.mark.parametrize("says", ["", "no devices", "{}", '["a"]'])
def test_tools_that_say_nothing_of_use_find_none(tmp_path: Path, says: str) -> None:
    neuron_ls(tmp_path / "bin", says)
    with pytest.raises(NoNeuronDevice):
        found(hardware(tmp_path, 0), 1)
