"""A mixture dispatched some tokens of a row at a time gives what it gives all at once, and keeps less."""

import jax
import jax.numpy as jnp
import pytest

from arch import tree
from arch.ffns import moe
from arch.routers import expert_choice
from tests.contracts.sublayers import Case, context, holds, inputs, jit

PLAIN = moe.Config(num_experts=5, top_k=2, hidden_dim=3, expert_dropout=0.3)


def _objective(cfg):
    """(sum of a function of the output, losses, statistics) of parameters and x, of 3 rows of 21 tokens."""

    def objective(params, x):
        out = cfg.make().apply({"params": params}, x, context(x, key=jax.random.key(0), deterministic=False))
        return jnp.sum(jnp.sin(out.x)) + sum(out.aux.losses.values()), out.aux

    return objective


def _values(cfg, params):
    (loss, aux), gradients = jit(jax.value_and_grad(_objective(cfg), (0, 1), has_aux=True))(params, inputs())
    return tree.paths({"loss": loss, "stats": aux.stats, "params": gradients[0], "x": gradients[1]})


def test_chunks_that_do_not_divide_the_row_give_the_same_loss_statistics_and_gradients():
    params = Case(PLAIN).params
    expected, found = _values(PLAIN, params), _values(PLAIN.replace(chunk_tokens=8), params)
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        assert holds(found[path], value, 1e-6), path


def test_what_is_hidden_in_the_experts_is_kept_of_no_chunk():
    def kept(cfg):
        shapes = jax.eval_shape(lambda: jax.vjp(_objective(cfg), Case(cfg).params, inputs(), has_aux=True)[1])
        return max(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.shape and leaf.shape[-1] == 11)

    wide = PLAIN.replace(hidden_dim=11, expert_dropout=0.0)
    weights, rows = 5 * 7 * 11, 3 * 21 * 2 * 11
    assert kept(wide) >= rows > weights == kept(wide.replace(chunk_tokens=8))


@pytest.mark.parametrize(
    "other", [dict(dispatch="gathered"), dict(router=expert_choice.Config(), renormalize=False, balance_weight=0.0)]
)
def test_what_is_not_split_by_token_is_refused(other):
    cfg = PLAIN.replace(expert_dropout=0.0, **other)
    with pytest.raises(ValueError, match="chunk_tokens=8 must be 0 with dispatch="):
        cfg.replace(chunk_tokens=8)
