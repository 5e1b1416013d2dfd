"""The FLOPs of whole models are those that XLA counts in them."""

import jax
import jax.numpy as jnp
import pytest

from arch import tree
from arch.families import bert, gpt, t5
from arch.heads import masked_lm, pretraining
from arch.layers.weight import unbox
from arch.tasks import masked_tokens
from arch.train.objective import objective
from tests.contracts.sublayers import xla_flops

ROWS, LENGTH, SOURCE = 2, 64, 96


def call(model, method, *arguments):
    """The count of a call of a model, whose layers run one after the other."""
    init = lambda *tokens: model.init(jax.random.key(0), *tokens, method=method)["params"]
    params = jax.eval_shape(lambda *tokens: tree.unstack(unbox(init(*tokens))), *arguments)
    apply = lambda params, *tokens: model.apply({"params": params}, *tokens, method=method).x
    return xla_flops(apply, params, *arguments)


def short(stack):
    """A stack of three layers."""
    return stack.replace(repeats=3 - len(stack.prefix))


def tokens(length):
    return jax.ShapeDtypeStruct((ROWS, length), jnp.int32)


def test_a_decoder_is_its_layers_and_its_unembedding():
    cfg = gpt.PRESETS["gpt2_small"]
    cfg = cfg.replace(layers=short(cfg.layers))
    count = call(cfg.make(), "__call__", tokens(LENGTH))
    assert count == pytest.approx(ROWS * cfg.flops(LENGTH).executed, rel=0.02)


def test_an_encoder_is_its_layers_and_its_head():
    cfg = bert.PRESETS["bert_base"]
    cfg = cfg.replace(head=pretraining.Config(), layers=short(cfg.layers))
    count = call(cfg.make(), "__call__", tokens(LENGTH))
    assert count == pytest.approx(ROWS * cfg.flops(LENGTH).executed, rel=0.02)


def test_masked_tokens_need_logits_of_the_masked_alone():
    cfg = bert.PRESETS["bert_base"]
    cfg, task = cfg.replace(head=masked_lm.Config(), layers=short(cfg.layers)), masked_tokens.Config()
    model, ids = cfg.make(), tokens(LENGTH)
    params = jax.eval_shape(lambda ids: tree.unstack(unbox(model.init(jax.random.key(0), ids)["params"])), ids)
    batch = dict(tokens=ids, targets=ids, weights=jax.ShapeDtypeStruct(ids.shape, jnp.float32))
    batch |= dict(positions=ids, segment_ids=ids)
    value = lambda params, batch: objective(model, params, batch, {"tokens": 1.0}, None, task=task)[0]
    count, said = xla_flops(value, params, batch), cfg.flops(**task.lengths(LENGTH))
    assert count == pytest.approx(ROWS * said.executed, rel=0.02)
    assert cfg.flops(LENGTH).executed - said.executed == 2 * (LENGTH - 10) * cfg.embed_dim * cfg.vocab_size


def test_an_encoder_decoder_is_both_stacks_and_the_unembedding_of_the_target():
    cfg = t5.PRESETS["t5_base"]
    cfg = cfg.replace(encoder=short(cfg.encoder), decoder=short(cfg.decoder))
    count = call(cfg.make(), "pair", tokens(SOURCE), tokens(LENGTH))
    assert count == pytest.approx(ROWS * cfg.flops(LENGTH, SOURCE).executed, rel=0.02)
