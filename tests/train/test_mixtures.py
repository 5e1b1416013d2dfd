"""Mixtures are found in every stack, with the path of their parameters and their name in the log."""

import jax
import jax.numpy as jnp

from arch import config, tree
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.models import decoder, encoder_decoder
from arch.train.mixtures import mixtures

MOE = dict(name="moe", num_experts=5, top_k=2, hidden_dim=3)
SIZES = dict(vocab_size=13, embed_dim=8)


def test_those_of_two_stacks_have_the_names_of_the_log():
    block = dict(sublayers=(MOE, MOE))
    stacks = dict(encoder=dict(pattern=(block,)), decoder=dict(pattern=(block,), repeats=2))
    cfg = config.from_dict(encoder_decoder.Config, SIZES | stacks)
    names = ["encoder/layers/0", "decoder/layers/0", "decoder/layers/1"]
    assert sorted(place.log for place, _ in mixtures(cfg)) == sorted([*names, *(f"{name}/moe_1" for name in names)])


def test_their_paths_are_those_of_their_parameters_shared_ones_too():
    layers = dict(pattern=(dict(sublayers=(MOE,)), dict(sublayers=(MOE,), group="same")), repeats=2)
    cfg = config.from_dict(decoder.Config, SIZES | dict(layers=layers))
    tokens = jnp.ones((1, 3), jnp.int32)
    init = lambda key: tree.unstack(unbox(cfg.make().init(key, tokens, Context(positions_of(tokens)))["params"]))
    params = tree.paths(jax.eval_shape(init, jax.random.key(0)))
    routers = {path.removesuffix("/router") for path in params if path.endswith("/router")}
    found = {place.params for place, _ in mixtures(cfg)}
    assert found == routers == {"layers/0/moe", "layers/2/moe", "layers/same/moe"}
