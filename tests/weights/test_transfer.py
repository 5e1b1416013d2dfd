"""An encoder's checkpoint under another head: what it has is loaded, what it lacks starts fresh, and both are named."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.families import bert
from arch.heads import classification, masked_lm, pooler, tagging
from arch.layers import norm
from arch.train import initial
from arch.weights import export, pretrained, transfer
from arch.weights.target import canonical
from tests.families import fit

SIZES = dict(embed_dim=6, num_layers=2, num_heads=2, hidden_dim=5, vocab_size=11, length=7, epsilon=1e-3)
TOKENS = masked_lm.Config(norm=norm.Config(kind="layer", epsilon=1e-3, bias=True))
OUTPUT = ("head/output", "head/output_bias")
POOLER = ("head/pooler/dense", "head/pooler/dense_bias")


def written(folder, head):
    """A tiny checkpoint with this head, each parameter of a value of its own."""
    cfg = bert.compose(**SIZES, head=head)
    params = {path: jnp.full(leaf.shape, i + 1.0) for i, (path, leaf) in enumerate(fit.shapes(cfg).items())}
    export.export(cfg, tree.from_paths(params), folder / "published")
    return folder / "published", params


@pytest.mark.parametrize(
    "old, new, fresh",
    [
        (TOKENS, classification.Config(num_labels=3), POOLER + OUTPUT),
        (pooler.Config(), classification.Config(num_labels=3), OUTPUT),
        (pooler.Config(), tagging.Config(num_labels=3), OUTPUT),
        (classification.Config(num_labels=3), classification.Config(num_labels=5), OUTPUT),
        (classification.Config(num_labels=3), classification.Config(num_labels=3, dropout=0.5), ()),
    ],
    ids=str,
)
def test_what_the_checkpoint_has_is_loaded_and_the_rest_of_the_head_is_fresh(tmp_path, old, new, fresh):
    path, params = written(tmp_path, old)
    found = transfer.with_head(pretrained.open(path), new)
    assert sorted(found.fresh) == sorted(fresh)
    cfg = bert.compose(**SIZES, head=new)
    loaded = tree.paths(pretrained.read(found, canonical(cfg)))
    assert loaded.keys() == canonical_paths(cfg) - set(fresh)
    moved = {"head/pooler/dense": "head/dense", "head/pooler/dense_bias": "head/dense_bias"}
    for name, leaf in loaded.items():
        assert np.array_equal(leaf, params[name if name in params else moved[name]]), name


def canonical_paths(cfg):
    return tree.paths(canonical(cfg)).keys()


def test_what_is_fresh_and_what_is_left_out_is_logged_by_name(tmp_path, caplog):
    path, _ = written(tmp_path, TOKENS)
    with caplog.at_level(logging.INFO, logger="arch"):
        transfer.with_head(pretrained.open(path), tagging.Config(num_labels=3))
    assert "fresh are head/output, head/output_bias; left out are cls.predictions.transform.dense.weight" in caplog.text


@pytest.mark.parametrize("old, said", [(classification.Config(num_labels=3), True), (pooler.Config(), False)], ids=str)
def test_a_head_that_is_taken_is_logged_and_that_its_labels_are_not_compared(tmp_path, caplog, old, said):
    path, _ = written(tmp_path, old)
    transfer.with_head(pretrained.open(path), classification.Config(num_labels=3))
    assert "of the head are taken as they are head/" in caplog.text
    assert ("its labels in the checkpoint's order, which may not be the data's" in caplog.text) == said


def test_fresh_values_come_from_who_starts_the_run(tmp_path):
    path, _ = written(tmp_path, TOKENS)
    cfg = bert.compose(**SIZES, head=tagging.Config(num_labels=3))
    asked = []

    def fresh(paths):
        asked.extend(paths)
        return {name: jnp.full(tree.paths(canonical(cfg))[name].shape, -1.0) for name in paths}

    values = tree.paths(initial.params(str(path), cfg, canonical(cfg), fresh))
    assert tuple(asked) == OUTPUT and (values["head/output"] == -1).all()
    assert values.keys() == canonical_paths(cfg)


def test_a_head_that_is_not_trained_is_neither_measured_nor_exported(tmp_path):
    path, _ = written(tmp_path, TOKENS)
    cfg = bert.compose(**SIZES, head=tagging.Config(num_labels=3))
    with pytest.raises(ValueError, match="must hold head/output, head/output_bias: that head is not trained"):
        initial.params(str(path), cfg, canonical(cfg))


def test_another_body_is_still_refused(tmp_path):
    path, _ = written(tmp_path, TOKENS)
    cfg = bert.compose(**SIZES | {"hidden_dim": 7}, head=tagging.Config(num_labels=3))
    with pytest.raises(ValueError, match="does not fit the model: .*mlp/up"):
        initial.params(str(path), cfg, canonical(cfg), lambda paths: {})
