"""A dual encoder gives either text what an encoder gives it alone, whatever mixes its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ffns import mlp
from arch.heads import hidden_states, pair_classification
from arch.layers import block, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.mixers import attention, hyena
from arch.models import dual_encoder, encoder
from arch.positions import learned, none
from tests.contracts.sublayers import EMBED, MIXERS, holds, jit, random_like

VOCAB, TOKENS = 11, 16
FIRST, SECOND, OTHER = jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=(3, 2, TOKENS)))
BESIDE = jnp.concatenate([FIRST, SECOND], axis=1)
ATTENTION = attention.Config(num_heads=2, head_dim=3, causal=False, position=none.Config())


def fields(sublayer, **more):
    """Those of an encoder with one layer, whose positions are learned and as many as a text has tokens."""
    layers = stack.Config(pattern=(block.Config(sublayers=(sublayer, mlp.Config(hidden_dim=5))),))
    own = dict(vocab_size=VOCAB, embed_dim=EMBED, layers=layers, position=learned.Config(length=TOKENS))
    return own | dict(head=hidden_states.Config()) | more


class Run:
    """A dual encoder, and an encoder with the same weights."""

    def __init__(self, sublayer, **more):
        self.cfg = dual_encoder.Config(**fields(sublayer, **more))
        self.model, alone = self.cfg.make(), encoder.Config(**fields(sublayer)).make()
        self.params = random_like(
            unbox(jax.eval_shape(self.model.init, jax.random.key(0), jnp.zeros((1, 1), int))["params"])
        )
        body = {name: leaf for name, leaf in self.params.items() if name != "head"}
        self.call = jit(lambda tokens, context: self.model.apply({"params": self.params}, tokens, context))
        self.alone = jit(lambda tokens: alone.apply({"params": body}, tokens).x)


@pytest.mark.parametrize("sublayer", [
    pytest.param(ATTENTION, id="attention"),
    pytest.param(hyena.Config(max_length=TOKENS, filter_dim=2, bands=2), id="hyena"),
    *(pytest.param(cfg, id=name, marks=pytest.mark.slow) for name, cfg in MIXERS.items() if "cross" not in name),
])  # fmt: skip
def test_either_text_is_encoded_as_if_it_were_alone(sublayer):
    run = Run(sublayer)
    states = run.call(BESIDE, None).x
    assert holds(states[:, :TOKENS], run.alone(FIRST)) and holds(states[:, TOKENS:], run.alone(SECOND))
    assert holds(run.call(jnp.concatenate([FIRST, OTHER], axis=1), None).x[:, :TOKENS], states[:, :TOKENS], 0)


def test_padding_of_a_text_changes_nothing():
    run = Run(ATTENTION, head=pair_classification.Config(num_labels=3, hidden_dim=5, pool="mean"))
    place = jnp.arange(2 * TOKENS)[None] % TOKENS
    valid = place < jnp.where(jnp.arange(2 * TOKENS) < TOKENS, 9, 7)
    padded = lambda fill: run.call(
        jnp.where(valid, BESIDE, fill), Context(positions=place.repeat(2, 0), valid=valid.repeat(2, 0))
    )
    assert holds(padded(1).x, padded(2).x, 0) and not holds(padded(1).x, run.call(BESIDE, None).x, 1e-3)


def test_its_flops_are_those_of_two_texts_and_of_a_head():
    head, alone = pair_classification.Config(), encoder.Config(**fields(ATTENTION))
    of_head = 2 * ((4 * EMBED + head.num_labels) * head.hidden_dim + EMBED)
    pair = dual_encoder.Config(**fields(ATTENTION, head=head))
    assert pair.flops(2 * TOKENS).required == 2 * alone.flops(TOKENS).required + of_head


@pytest.mark.parametrize("tokens, more, message", [
    (TOKENS + 1, {}, "tokens=17 of a row must be a multiple of 2"),
    (TOKENS, dict(segment_ids=jnp.ones((1, TOKENS), int)), "segment_ids must be None for a dual encoder"),
])  # fmt: skip
def test_a_row_that_is_no_pair_is_refused(tokens, more, message):
    run, row = Run(ATTENTION), jnp.zeros((1, tokens), int)
    with pytest.raises(ValueError, match=message):
        run.model.apply({"params": run.params}, row, Context(positions=positions_of(row), **more))
