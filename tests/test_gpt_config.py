"""configs/gpt.py derives a run from its depth by the rule that its header states."""

import functools
import runpy

import jax
import pytest

from arch import config, tree
from arch.train import experiment
from tests.commands import ROOT

GPT = runpy.run_path(str(ROOT / "configs" / "gpt.py"))


@functools.cache
def run(depth) -> experiment.Config:
    return experiment.from_dict(GPT["get_config"](f"d{depth}"))


@pytest.mark.parametrize("weights, batch, rate", [(6.9e9, 2304 * 4096, 4.2e-4), (67e9, 4608 * 4096, 3.2e-4)])
def test_the_rule_gives_what_its_authors_trained_with(weights, batch, rate):
    compute = 6 * weights * 2e12  # DeepSeek LLM, arXiv 2401.02954, table 2: 7B and 67B on 2T tokens
    assert GPT["batch_tokens"](compute) == pytest.approx(batch, rel=0.1)
    assert GPT["learning_rate"](compute) == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("depth", [1, 12, 96])
def test_a_run_has_twenty_tokens_a_weight(depth):
    cfg = run(depth)
    params = jax.eval_shape(cfg.model.make().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), "int32"))
    assert cfg.total_tokens == pytest.approx(20 * tree.count(params), rel=0.005)


def test_twelve_layers_are_gpt2_smalls():
    model = run(12).model
    attention, mlp = model.layers.pattern[0].sublayers
    assert (model.embed_dim, model.layers.repeats, attention.num_heads, mlp.hidden_dim) == (768, 12, 12, 3072)


def test_more_depth_is_more_of_all_and_a_lower_rate():
    runs = [run(depth) for depth in (1, 2, 5, 12, 96)]
    for shallow, deep in zip(runs, runs[1:]):
        assert shallow.total_tokens < deep.total_tokens
        assert shallow.batch_size * shallow.seq_len < deep.batch_size * deep.seq_len
        assert shallow.model.vocab_size <= deep.model.vocab_size and shallow.seq_len <= deep.seq_len
        assert shallow.optimizer.learning_rate > deep.optimizer.learning_rate


@pytest.mark.parametrize("depth", ["d0", "d97", "12", "deep"])
def test_a_depth_that_there_is_not_is_refused(depth):
    with pytest.raises(config.ConfigError, match=f"option depth='{depth}' must be d1 to d96"):
        GPT["get_config"](depth)
