"""Several CPU devices take their collectives in one order, unless the user says otherwise."""

import pytest

from arch.train import cpu_devices
from tests.commands import ROOT

COUNT = "--xla_force_host_platform_device_count=8"
PLAIN = f"{cpu_devices.FLAG}=false"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, {"XLA_FLAGS": "--xla_dump_to=x"}),
        ({"XLA_FLAGS": COUNT}, {"XLA_FLAGS": f"{COUNT} {PLAIN}"}),
        ({"JAX_NUM_CPU_DEVICES": "8"}, {"JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": PLAIN}),
        ({"XLA_FLAGS": f"{COUNT} {cpu_devices.FLAG}=true"}, {"XLA_FLAGS": f"{COUNT} {cpu_devices.FLAG}=true"}),
    ],
)
def test_only_several_devices_without_an_order_get_one(before, after):
    cpu_devices.take_turns(before)
    assert before == after


def test_run_py_asks_before_it_imports_jax():
    text = (ROOT / "run.py").read_text(encoding="utf-8")
    assert 0 < text.index("cpu_devices.take_turns()") < text.index("\nimport jax\n")
