"""On a CPU no thread waits for another for ever, unless the user says otherwise."""

import os
import subprocess
import sys

import jax
import pytest

from arch.train import cpu_devices, experiment, setup
from tests.commands import ROOT
from tests.contracts.sublayers import MIXERS, case_of, context, inputs

COUNT = "--xla_force_host_platform_device_count=8"
PLAIN, ITS_OWN = (f"{cpu_devices.CONCURRENCY}={value}" for value in ("false", "true"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, {"XLA_FLAGS": "--xla_dump_to=x"}),
        ({"XLA_FLAGS": COUNT}, {"XLA_FLAGS": f"{COUNT} {PLAIN}"}),
        ({"JAX_NUM_CPU_DEVICES": "8"}, {"JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": PLAIN}),
        ({"XLA_FLAGS": f"{COUNT} {ITS_OWN}"}, {"XLA_FLAGS": f"{COUNT} {ITS_OWN}"}),
    ],
)
def test_only_several_devices_without_an_order_get_one(before, after):
    cpu_devices.take_turns(before)
    assert before == after


@pytest.mark.parametrize("before, after", [
    ("", f"{cpu_devices.SPLIT}=false"), (f"{cpu_devices.SPLIT}=true", f"{cpu_devices.SPLIT}=true"),
    (COUNT, f"{COUNT} {PLAIN} {cpu_devices.SPLIT}=false"),
])  # fmt: skip
def test_fourier_transforms_have_a_thread_each(before, after):
    environment = {"XLA_FLAGS": before}
    cpu_devices.take_turns(environment, transforms=True)
    assert environment == {"XLA_FLAGS": after}


def fft(cfg):
    """Whether a mixer has a Fourier transform, as it is traced."""
    case = case_of(cfg)
    x = inputs()
    return " fft[" in str(jax.make_jaxpr(case.apply)(case.params, x, context(x)))


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name != "hyena_0")) for name in MIXERS
])  # fmt: skip
def test_mixers_say_whether_they_have_fourier_transforms(name):
    assert fft(MIXERS[name]) == MIXERS[name].transforms


def test_a_run_says_whether_its_model_has_transforms(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(cpu_devices, "take_turns", lambda transforms: asked.append(transforms))
    layers = lambda mixer: dict(pattern=(dict(sublayers=(mixer,)),))
    for mixer in (dict(name="hyena", max_length=6), dict(name="mlp", hidden_dim=2)):
        task = dict(name="associative_recall", pairs=2, train_rows=8, valid_rows=8)
        model = dict(name="decoder", vocab_size=10, embed_dim=2, layers=layers(mixer))
        run = dict(model=model, task=task, seq_len=6, batch_size=8, total_steps=1)
        setup.prepare(experiment.from_dict(run), tmp_path / mixer["name"])
    assert asked == [True, False]


TRANSFORMS = """
import os
from arch.train import cpu_devices
cpu_devices.take_turns(transforms=True)
import jax, jax.numpy as jnp
each = jax.jit(lambda rows: [jnp.fft.irfft(jnp.fft.rfft(row, 512, axis=1), 512, axis=1) for row in rows])
rows = [jax.random.normal(jax.random.key(i), (8, 512, 64)) for i in range(2 * os.cpu_count())]
for _ in range(200):
    rows = each(rows)
jax.block_until_ready(rows)
"""


@pytest.mark.slow
def test_more_transforms_at_once_than_there_are_threads_come_to_an_end():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", TRANSFORMS], env=environment, cwd=ROOT, check=True, timeout=300)


def test_run_py_asks_before_it_imports_jax():
    text = (ROOT / "run.py").read_text(encoding="utf-8")
    assert 0 < text.index("cpu_devices.take_turns()") < text.index("\nimport jax\n")
