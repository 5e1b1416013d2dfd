"""The order-3 baseline on texts whose entropy is known."""

import numpy as np
import pytest

from arch.data import markov


def test_fair_coins_have_one_bit():
    coins = np.random.default_rng(0).integers(0, 2, 40_000).astype(np.uint8).tobytes()
    assert markov.held_out_bits(coins[:30_000], coins[30_000:]) == pytest.approx(1, abs=0.01)
    assert markov.in_sample_bits(coins[:30_000], coins[30_000:]) == pytest.approx(1, abs=0.01)


def test_a_period_of_four_has_no_entropy_at_order_three_and_some_at_order_one():
    text = b"aaab" * 1000
    assert markov.in_sample_bits(text, text) == pytest.approx(0, abs=1e-6)
    assert markov.held_out_bits(text, text) < 0.01
    assert markov.in_sample_bits(text, text, order=1) == pytest.approx(0.75 * 0.918, abs=0.01)


def test_unseen_bytes_cost_finitely_many_bits():
    assert 8 < markov.held_out_bits(b"ab" * 100, b"xyzw" * 10) < 40
