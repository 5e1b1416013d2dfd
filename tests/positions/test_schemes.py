"""What every position scheme promises, found by listing the folder."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Position
from arch.mixers import attention
from arch.positions import rope, rope_linear, rope_llama3, rope_ntk, rope_yarn
from tests.contracts.sublayers import files

HOOKS = {"nowhere": None, "input": "embed", "heads": "rotate", "logits": "bias"}
EXAMPLES = {
    f"{name}_{i}": cfg
    for name in files("positions")
    for i, cfg in enumerate(importlib.import_module(f"arch.positions.{name}").EXAMPLES)
}
ON_HEADS = {name: cfg for name, cfg in EXAMPLES.items() if cfg.acts == "heads"}


@pytest.mark.parametrize("name", files("positions"))
def test_every_file_defines_a_config_and_examples_of_it(name):
    module = importlib.import_module(f"arch.positions.{name}")
    assert issubclass(module.Config, Position)
    assert module.EXAMPLES and all(type(example) is module.Config for example in module.EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_scheme_has_the_hook_of_the_place_where_it_acts_and_no_other(name):
    cfg = EXAMPLES[name]
    own = [hook for hook in ("embed", "rotate", "bias") if getattr(type(cfg), hook) is not getattr(Position, hook)]
    assert own == [hook for hook in [HOOKS[cfg.acts]] if hook]


@pytest.mark.parametrize("name", EXAMPLES)
def test_attention_takes_what_does_not_act_at_the_input(name):
    make = lambda: attention.Config(num_heads=2, head_dim=4, position=EXAMPLES[name])
    if EXAMPLES[name].acts == "input":
        with pytest.raises(ValueError, match="must act at heads or logits here; it acts at input"):
            make()
    else:
        assert make().position == EXAMPLES[name]


HEADS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 1, 5, 3, 10)), jnp.float32)


def _products(cfg, start):
    query, key = (cfg.rotate(heads, start + jnp.arange(5)[None]) for heads in HEADS)
    return jnp.einsum("btnh,bsnh->bnts", query, key)


@pytest.mark.parametrize("name", ON_HEADS)
def test_products_of_rotated_heads_depend_on_the_distance_only(name):
    np.testing.assert_allclose(_products(ON_HEADS[name], 0), _products(ON_HEADS[name], 13), atol=5e-5)


@pytest.mark.parametrize("name", ON_HEADS)
def test_products_of_rotated_heads_depend_on_the_distance(name):
    other = ON_HEADS[name].rotate(HEADS[1], jnp.arange(1, 6)[None])
    shifted = jnp.einsum("btnh,bsnh->bnts", ON_HEADS[name].rotate(HEADS[0], jnp.arange(5)[None]), other)
    assert np.abs(shifted - _products(ON_HEADS[name], 0)).max() > 0.1


LENGTHS = dict(original_length=8)
SCALED = {
    "linear": lambda factor: rope_linear.Config(factor=factor),
    "ntk": lambda factor: rope_ntk.Config(factor=factor),
    "yarn": lambda factor: rope_yarn.Config(factor=factor, **LENGTHS),
    "llama3": lambda factor: rope_llama3.Config(factor=factor, low_freq_factor=0.5, high_freq_factor=1.0, **LENGTHS),
}


@pytest.mark.parametrize("scaling", SCALED)
def test_a_scaling_by_one_is_plain_rope(scaling):
    np.testing.assert_allclose(_products(SCALED[scaling](1.0), 0), _products(rope.Config(), 0), atol=1e-6)


@pytest.mark.parametrize("scaling", SCALED)
def test_a_scaling_slows_the_slowest_pair_by_its_factor(scaling):
    slowest = lambda cfg: cfg.frequencies(10)[-1]
    assert slowest(rope.Config()) / slowest(SCALED[scaling](4.0)) == pytest.approx(4.0)


@pytest.mark.parametrize("scaling", sorted(set(SCALED) - {"linear"}))
def test_a_scaling_but_the_linear_one_keeps_the_fastest_pair(scaling):
    assert SCALED[scaling](4.0).frequencies(10)[0] == pytest.approx(1.0)


def test_linear_interpolation_reads_positions_divided_by_the_factor():
    positions = jnp.arange(5)[None]
    scaled = rope_linear.Config(factor=3.0).rotate(HEADS[0], 3 * positions)
    np.testing.assert_allclose(scaled, rope.Config().rotate(HEADS[0], positions), atol=1e-5)


def test_yarn_multiplies_queries_and_keys_by_a_tenth_of_the_logarithm_and_one():
    position = jnp.zeros((1, 5), int)
    np.testing.assert_allclose(SCALED["yarn"](np.e**3).rotate(HEADS[0], position), 1.3 * HEADS[0], rtol=1e-6)


def test_yarn_s_amplitude_may_be_given():
    cfg = rope_yarn.Config(factor=4.0, amplitude=2.0, **LENGTHS)
    np.testing.assert_allclose(cfg.rotate(HEADS[0], jnp.zeros((1, 5), int)), 2 * HEADS[0], rtol=1e-6)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: rope_llama3.Config(factor=8.0, low_freq_factor=4.0, high_freq_factor=4.0, original_length=8),
     "high_freq_factor=4.0 must be above low_freq_factor=4.0"),
    (lambda: rope_yarn.Config(factor=8.0, original_length=8, beta_fast=1.0, beta_slow=2.0),
     "beta_fast=1.0 must be at least beta_slow=2.0"),
    (lambda: EXAMPLES["relative_0"].replace(buckets=32, max_distance=16),
     "buckets=32 must leave a bucket for long distances below max_distance=16"),
    (lambda: EXAMPLES["learned_0"].replace(length=2, offset=2), "offset=2 must be below length=2"),
])  # fmt: skip
def test_fields_that_contradict_each_other_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
