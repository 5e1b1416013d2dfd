"""What `--topology` names, and one line where it names nothing."""

import importlib.metadata
import importlib.util

import pytest

from arch.plan import topology
from arch.train.utilization import PEAKS


@pytest.mark.parametrize("text, chips, size, slices", [
    ("v5e:8x8", 64, 64, 1),
    ("v5p:4x4x4,slices=2", 128, 128, 2),
    ("tpu7x:2x2x1", 4, 8, 1),
    ("h200:8", 8, 8, 1),
    ("h100:8,slices=3", 24, 24, 3),
])  # fmt: skip
def test_a_topology_is_read_and_told(text, chips, size, slices):
    found = topology.parse(text)
    assert (str(found), found.chips, found.size, found.slices) == (text, chips, size, slices)


@pytest.mark.parametrize("text, rule", [
    ("", r"--topology='' must be CHIP:SHAPE"),
    ("v9:2x2", r"--topology='v9:2x2' must be CHIP:SHAPE.*with a chip among v4, v5e,"),
    ("v5e:2y2", "must be CHIP:SHAPE"),
    ("v5e:0x2", "must have at least one chip"),
    ("h200:2x4", "must be h200:N, the GPUs of a node"),
    ("v4:2x2x1,slices=2", "must have one slice: the bandwidth between slices is not known"),
])  # fmt: skip
def test_what_is_no_topology_is_refused(text, rule):
    with pytest.raises(ValueError, match=rule):
        topology.parse(text)


def test_a_chip_has_the_peak_that_utilisation_is_told_by():
    halves = {"v4": 2}  # libtpu describes its two cores apart
    for name, chip in topology.CHIPS.items():
        assert chip.peak == PEAKS[chip.kind] * 1e12 / halves.get(name, 1)


def test_absent_libtpu_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--topology=v5e:2x2 needs libtpu.*pip install 'arch-jax\[plan\]'"):
        topology.devices(topology.parse("v5e:2x2"))


@pytest.mark.parametrize("version", ["0.0.52", "0.0.481"])
def test_another_libtpu_than_jax_names_is_refused(monkeypatch, version):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["libtpu==0.0.48.*; extra == 'tpu'"])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "libtpu" else real(name))
    with pytest.raises(ValueError, match=rf"libtpu=={version} must be libtpu==0.0.48.\*"):
        topology.must_have_libtpu(topology.parse("v5e:2x2"))
