"""Training steps and decoding as they are timed on a GPU, on CPU at tiny size."""

import math

import pytest

from arch.families import llama
from benchmarks.gpu.decoding import Decoding
from benchmarks.gpu.training import Step

TINY = llama.compose(vocab_size=17, embed_dim=8, num_layers=1, num_heads=1, hidden_dim=8)


def test_a_training_step_is_timed_and_learns():
    (row,) = Step("tiny", TINY, rows=2, length=5, chunk_tokens=4).run(seed=3, samples=3, sample_s=0.0)
    assert row["parameters"] == 17 * 8 * 2 + 8 + (4 * 64 + 8) + (3 * 64 + 8)
    assert row["tokens_per_second"] == pytest.approx(2 * 5 / (row["median_ms"] / 1e3), rel=0.01)
    assert row["last_loss"] < row["first_loss"] == pytest.approx(math.log(17), abs=1.0)
    assert "mfu" not in row  # the peak of a CPU is not known


@pytest.mark.slow
def test_decoding_is_timed_and_an_absent_peer_is_named(monkeypatch):
    def absent(package, module):
        raise ImportError(f"{package} is not installed")

    monkeypatch.setattr("benchmarks.gpu.decoding.need", absent)
    rows = Decoding("tiny", TINY, batch=2, peer=True).run(seed=3, prompt=5, new=3, rounds=3)
    own, peer = rows
    assert own["side"] == "own" and own["same_tokens"] and own["first_token_ms"] > 0
    assert peer["side"] == "transformers" and peer["missing"] == "torch is not installed"
