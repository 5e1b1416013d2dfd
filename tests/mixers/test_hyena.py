"""What is particular to Hyena: the recurrence of gates and filters, its windows, and a cache whose growth is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.weight import unbox
from arch.mixers import hyena
from tests.contracts.sublayers import Case, inputs

CFG = hyena.Config(max_length=16, order=3, filter_dim=5, bands=2, frequency=3.0, floor=0.1)


def test_the_result_is_that_of_the_recurrence_in_the_paper():
    case, x = Case(CFG), np.asarray(inputs(), np.float64)
    params, (tokens, d) = jax.tree.map(np.asarray, case.params), x.shape[1:]
    u = np.pad(x @ params["in"] + params["in_bias"], ((0, 0), (2, 0), (0, 0)))
    u = sum(params["conv"][i] * u[:, i : i + tokens] for i in range(3)) + params["conv_bias"]
    z, *gates = np.split(u, 4, axis=-1)

    lag, own = np.arange(tokens)[:, None] / 16, params["filter"]
    hidden = np.concatenate([lag, np.cos(2 * np.pi * lag * [0, 1]), np.sin(2 * np.pi * lag * [0, 1])], axis=-1)
    for i in range(3):
        hidden = np.sin(own["frequency"] * (hidden @ own[f"product_{i}"] + own[f"bias_{i}"]))
    window = 0.01 ** (lag / np.array([1 / (1 / 1.5 + (1 / 0.3 - 1 / 1.5) * c / (d - 1)) for c in range(d)])) + 0.1
    for n in range(2):
        filter, z = hidden @ own["out"][:, n] * window, gates[n] * z
        sums = [sum(filter[t - s] * z[:, s] for s in range(t + 1)) for t in range(tokens)]
        z = np.stack(sums, axis=1) + params["skip"][n] * z
    np.testing.assert_allclose(case.full, gates[2] * z @ params["out"] + params["out_bias"], atol=2e-4)


def test_the_cache_holds_the_inputs_of_all_long_convolutions():
    shapes = jax.tree.map(jnp.shape, CFG.init_cache(2, 11, 7, jnp.bfloat16))
    assert shapes == {"tail": (2, 2, 28), "inputs": (2, 2, 11, 7), "length": (2,)}


def filters(cfg, *lengths):
    """At lags from 0, for rows of these lengths and 7 channels."""
    module = hyena.Filters(cfg)
    params = {"params": unbox(module.init(jax.random.key(0), 2, 7)["params"])}
    return [np.asarray(module.apply(params, length, 7)) for length in lengths]


def test_the_window_of_the_fastest_channel_is_at_one_percent_after_its_share_of_the_length():
    [windowed], [level] = (filters(CFG.replace(max_length=40, fast=fast, floor=0.0), 13) for fast in (0.3, 1e9))
    np.testing.assert_allclose(windowed[:, 12, 6], 0.01 * level[:, 12, 6], rtol=1e-3)


def test_filters_do_not_depend_on_the_length_that_is_asked_for():
    long, short = filters(CFG, 13, 5)
    np.testing.assert_allclose(long[:, :5], short, atol=1e-6)


def test_an_order_without_a_long_convolution_is_refused():
    with pytest.raises(ValueError, match="order=1 must be at least 2"):
        CFG.replace(order=1)
