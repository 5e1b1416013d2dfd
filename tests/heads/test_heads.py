"""Every head, found by listing the folder, and what is particular to each."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import arch
from arch import tree
from arch.heads import (
    classification,
    masked_lm,
    pair_classification,
    pooler,
    pretraining,
    row_classification,
    span,
    tagging,
)
from arch.layers import embedding
from arch.layers.weight import axes, unbox
from arch.ops.norm import layer_norm
from arch.sharding.mesh import RULES
from tests.contracts.sublayers import context, holds, inputs, random_like

VOCAB, EMBED = 11, 7
FILES = sorted(p.stem for p in (pathlib.Path(arch.__file__).parent / "heads").glob("*.py") if p.stem != "__init__")
HEADS = {
    f"{name}_{i}": cfg
    for name in FILES
    for i, cfg in enumerate(importlib.import_module(f"arch.heads.{name}").EXAMPLES)
}
TABLE = random_like(jax.ShapeDtypeStruct((VOCAB, EMBED), jnp.float32), seed=3)


def unembed(x):
    """Logits of hidden states."""
    return embedding.Unembedding(TABLE.astype(x.dtype))(x)


class Run:
    """A head on hidden states, with random weights."""

    def __init__(self, cfg):
        self.head, self.x = cfg.make(), inputs(tokens=5)
        init = lambda key: self.head.init(key, self.x, context(self.x), embedding.Unembedding(TABLE))
        self.boxes = jax.eval_shape(init, jax.random.key(0)).get("params", {})
        self.params = random_like(unbox(self.boxes))

    def __call__(self, params=None, x=None, **fields):
        x = self.x if x is None else x
        params = self.params if params is None else params
        table = embedding.Unembedding(TABLE.astype(x.dtype))
        out = self.head.apply({"params": params}, x, context(x, **fields), table)
        beside = dict(out.shared)
        unembed = beside.pop("unembed", lambda x: x)
        return dataclasses.replace(out, x=unembed(out.x), shared=beside)


@pytest.fixture(scope="module", params=HEADS)
def run(request):
    return Run(HEADS[request.param])


def test_rows_do_not_see_each_other(run):
    whole, alone = run(), run(x=run.x[1:2])
    assert holds(alone.x, whole.x[1:2])
    assert all(holds(alone.shared[name], value[1:2]) for name, value in whole.shared.items())


def test_gradients_reach_every_weight(run):
    def objective(params):
        out = run(params)
        return sum(jnp.sum(jax.nn.log_softmax(value)[..., 1]) for value in (out.x, *out.shared.values()))

    for path, gradient in tree.paths(jax.grad(objective)(run.params)).items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), path


def test_every_weight_names_its_axes(run):
    declared = tree.paths(axes(run.boxes)) if run.boxes else {}
    for path, leaf in tree.paths(unbox(run.boxes)).items():
        assert len(declared[path]) == leaf.ndim and set(declared[path]) <= RULES.keys()


def test_bfloat16_is_near_float32(run):
    exact, half = run(), run(x=run.x.astype(jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(half.x, np.float32), exact.x, atol=0.1)


def test_the_pooler_is_tanh_of_a_projection_of_the_first_token():
    run = Run(pooler.Config())
    expected = np.tanh(run.x[:, 0] @ run.params["dense"] + run.params["dense_bias"])
    assert holds(run().shared["pooled"], expected) and run().x is run.x


def test_the_pooler_refuses_packed_rows():
    run = Run(pooler.Config())
    with pytest.raises(ValueError, match="segment_ids must be None"):
        run(segment_ids=jnp.ones(run.x.shape[:2], jnp.int32))


def test_the_masked_token_head_reads_the_embedding_s_table():
    run = Run(masked_lm.Config())
    p = run.params
    hidden = jax.nn.gelu(run.x @ p["dense"] + p["dense_bias"], approximate=False)
    expected = unembed(layer_norm(hidden, p["norm"]["scale"], p["norm"]["bias"], epsilon=1e-12)) + p["output_bias"]
    assert holds(run().x, expected)
    assert run().x.shape == (3, 5, VOCAB)


def test_pretraining_gives_both_tasks_logits():
    out = Run(pretraining.Config())()
    assert out.x.shape == (3, 5, VOCAB) and out.shared["next_sentence"].shape == (3, 2)


def test_classification_labels_rows_and_tagging_tokens():
    assert Run(classification.Config(num_labels=4))().x.shape == (3, 4)
    assert Run(tagging.Config(num_labels=4))().x.shape == (3, 5, 4)


def test_classification_reads_only_the_first_token():
    run = Run(classification.Config())
    assert holds(run(x=run.x.at[:, 1:].add(1.0)).x, run().x, 0)


def test_a_row_s_class_is_a_perceptron_s_on_the_mean_of_what_is_no_padding():
    run = Run(row_classification.Config(num_labels=4, hidden_dim=5, pool="mean"))
    valid, p = jnp.arange(5) < jnp.array([[2], [5], [0]]), run.params
    pooled = jnp.stack([run.x[0, :2].mean(0), run.x[1].mean(0), jnp.zeros(EMBED)])
    expected = jax.nn.relu(pooled @ p["dense"] + p["dense_bias"]) @ p["output"] + p["output_bias"]
    assert holds(run(valid=valid).x, expected) and holds(run().x[1], expected[1])


def test_a_row_s_class_may_be_read_from_the_first_token_alone():
    run = Run(row_classification.Config(hidden_dim=5))
    assert holds(run(x=run.x.at[:, 1:].add(1.0)).x, run().x, 0) and run.head.cfg.looks
    with pytest.raises(ValueError, match="segment_ids must be None"):
        run(segment_ids=jnp.ones(run.x.shape[:2], jnp.int32))


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_a_pair_s_class_is_a_perceptron_s_on_both_texts_their_product_and_their_difference(pool):
    run, valid = Run(pair_classification.Config(num_labels=4, hidden_dim=5, pool=pool)), jnp.arange(5) != 4
    x, p = np.asarray(run.x), jax.tree.map(np.asarray, run.params)
    first, second = (x[:, 0], x[:, 2]) if pool == "first" else (x[:, :2].mean(1), x[:, 2:4].mean(1))
    both = np.concatenate([first, second, first * second, first - second], axis=1)
    expected = np.maximum(both @ p["dense"] + p["dense_bias"], 0) @ p["output"] + p["output_bias"]
    assert holds(run(valid=jnp.broadcast_to(valid, (3, 5))).x, expected)


def test_span_gives_each_token_a_start_and_an_end():
    run = Run(span.Config())
    assert holds(run().x, run.x @ run.params["output"] + run.params["output_bias"])


@pytest.mark.parametrize("head", [classification.Config(dropout=0.5), tagging.Config(dropout=0.5)])
def test_dropout_acts_in_training_only(head):
    run = Run(head)
    noisy = run(deterministic=False, key=jax.random.key(0)).x
    assert holds(run().x, Run(head.replace(dropout=0.0))().x, 0) and not holds(noisy, run().x, 1e-3)
