"""What cannot be held is refused with both sizes, before anything is allocated."""

import types

import jax
import pytest

from arch.train import capacity, setup
from tests.train import tiny


@pytest.fixture(scope="module")
def must_fit(text, tmp_path_factory):
    """Prepares a tiny run with changes, and holds it to the devices."""

    def prepared(**changes):
        ready = setup.prepare(tiny.config(text, **changes), tmp_path_factory.mktemp("run"))
        capacity.state_must_fit(ready.cfg.model, ready.plan, ready.mesh)

    return prepared


def test_a_tiny_run_fits(must_fit):
    must_fit()


def test_a_model_beyond_the_memory_is_refused(must_fit):
    said = r"model: its \d+ parameters and .* state take .* GiB .* largest size is model.vocab_size=2147483647"
    with pytest.raises(ValueError, match=said):
        must_fit(**{"model.vocab_size": 2**31 - 1})


def test_a_batch_beyond_the_memory_is_refused(must_fit):
    said = r"batch_size=100000000 of seq_len=29, model\.embed_dim=\d+: one layer's output takes .* GiB"
    with pytest.raises(ValueError, match=said):
        must_fit(batch_size=10**8)


def test_a_device_s_own_word_on_its_memory_counts():
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 7})
    assert capacity.device_bytes(device) == 7


def test_devices_that_say_nothing_share_the_machine_s_memory():
    device = types.SimpleNamespace(memory_stats=lambda: None)
    assert capacity.device_bytes(device) * jax.local_device_count() <= capacity.host_bytes() < 2**60
