"""What is particular to Gated DeltaNet: a cache that does not grow, keys shared by heads; it is Qwen3-Next's layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Context
from arch.mixers import gated_delta_net
from arch.ops.gated_delta import gated_delta
from arch.published import Rule
from tests.mixers import gated_delta_net_peer

CFG = gated_delta_net.Config(num_heads=4, num_key_heads=2, key_dim=3, value_dim=5)


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.bfloat16)) for length in (3, 100_000))
    assert short == long == {"query": (2, 3, 6), "key": (2, 3, 6), "value": (2, 3, 20), "state": (2, 4, 5, 3)}


def test_heads_that_key_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_heads=4 must be a multiple of num_key_heads=3"):
        CFG.replace(num_key_heads=3)


def parameters():
    """Ours from theirs: of each key head its query, its key, and the values and gates of the heads that share it."""
    n, k, h, v = (gated_delta_net_peer.SIZES[name] for name in ("num_heads", "num_key_heads", "key_dim", "value_dim"))
    cut = {"first": "(k c) d -> c k d", "k": k}
    rules = [
        Rule(
            ("query", "key", "value", "gate"),
            "in_proj_qkvz.weight",
            "c k d -> d (k c)",
            cuts=(h, h, n // k * v, n // k * v),
            **cut,
        ),
        Rule(("beta", "dt"), "in_proj_ba.weight", "c k d -> d (k c)", cuts=(n // k, n // k), **cut),
        Rule(
            ("query_conv", "key_conv", "value_conv"),
            "conv1d.weight",
            "f 1 w -> w f",
            cuts=(k * h, k * h, n * v),
        ),
        *(Rule(name, name) for name in ("dt_bias", "A_log")),
        Rule("norm", "norm.weight"),
        Rule("out", "out_proj.weight", "d f -> f d"),
    ]
    theirs, ours = gated_delta_net_peer.tensors(), {}
    for rule in rules:
        ours |= zip(rule.ours, rule.load([theirs[name] for name in rule.theirs]), strict=True)
    return jax.tree.map(jnp.asarray, ours)


def difference(actual, expected):
    """The largest one, in units of the largest value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


def test_the_layer_is_that_of_transformers_qwen3_next():
    x = jnp.asarray(gated_delta_net_peer.arrays()["x"])
    model = gated_delta_net.Config(**gated_delta_net_peer.SIZES, chunk=16).make()
    context = Context(positions=jnp.tile(jnp.arange(x.shape[1]), (x.shape[0], 1)))
    actual = jax.jit(lambda params: model.apply({"params": params}, x, context).x)(parameters())
    assert difference(actual, np.load(gated_delta_net_peer.GOLDEN)["layer"]) < 1e-5


@pytest.mark.parametrize("implementation", ["chunked", "recurrent"])
def test_the_rule_is_that_of_transformers_in_both_forms(implementation):
    given, golden = gated_delta_net_peer.arrays(), np.load(gated_delta_net_peer.GOLDEN)
    query, key, value, *rest = (jnp.asarray(given[name]) for name in ("query", "key", "value", "log_decay", "beta"))
    query *= query.shape[-1] ** -0.5  # theirs does that itself
    run = functools.partial(gated_delta, chunk=16, implementation=implementation)
    actual, state = jax.jit(run)(query, key, value, *rest, state=jnp.asarray(given["state"]))
    assert difference(actual, golden[implementation]) < 1e-5
    assert difference(state, golden[f"{implementation}/state"]) < 1e-5
