"""Each router says truly and wholly what it lacks: whether a token's experts depend on later tokens, other documents.

Rows are independent, so many of them are many draws of one compiled call: rows as they are, the same with a token of
the second document changed, the same with one of the first.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.routing import assignment
from arch.routers import (
    base,
    expert_choice,
    forced,
    gshard,
    hashed,
    noisy_top_k,
    replay,
    sigmoid,
    sinkhorn,
    soft,
    switch,
    threshold,
    top_k,
)
from arch.routers._router import Demand
from tests.contracts.sublayers import ROOT, context, jit

ROWS, TOKENS, EMBED, EXPERTS = 64, 7, 3, 5
SECOND, CHANGED, EARLIER = 3, 5, 1  # where the second document starts, a token of it, a token of the first

ONE, TWO = Demand(EXPERTS, 1, renormalize=False), Demand(EXPERTS, 2)
UNDIVIDED = dataclasses.replace(TWO, renormalize=False)
ROUTERS = {
    "top_k": (top_k.Config(jitter=0.1, drop_experts=0.3), TWO),
    "sigmoid": (sigmoid.Config(num_groups=5, top_groups=2), TWO),
    "noisy_top_k": (noisy_top_k.Config(), TWO),
    "threshold": (threshold.Config(), UNDIVIDED),
    "hashed": (hashed.Config(table_size=11), TWO),
    "forced": (forced.Config(), TWO),
    "forced, skewed": (forced.Config(kind="skewed", share=0.5), TWO),
    "replay": (replay.Config(), TWO),
    "switch": (switch.Config(), ONE),
    "switch, batch": (switch.Config(priority="batch"), ONE),
    "switch, two stages": (switch.Config(capacity_factor=1.0, eval_capacity_factor=1.0, stages=2), ONE),
    "switch, room in evaluation": (switch.Config(priority="batch", eval_capacity_factor=5.0), ONE),
    "gshard": (gshard.Config(), TWO),
    "gshard, room in evaluation": (gshard.Config(eval_capacity_factor=2.5), TWO),
    "base": (base.Config(), ONE),
    "sinkhorn": (sinkhorn.Config(), ONE),
    "expert_choice": (expert_choice.Config(), UNDIVIDED),
    "soft": (soft.Config(places=2), Demand(EXPERTS, EXPERTS)),
    "expert_choice, all": (expert_choice.Config(capacity_factor=2.5), UNDIVIDED),
}


def test_every_router_is_here():
    files = {file.stem for file in (ROOT / "routers").glob("[a-z]*.py")}
    assert files == {name.split(",")[0] for name in ROUTERS}


def _inputs():
    """x [3 b t d] and tokens [3 b t]: plain, with CHANGED changed, with EARLIER changed; most rows crowd an expert."""
    rng = np.random.default_rng(0)
    x, tokens = rng.standard_normal((ROWS, TOKENS, EMBED)), rng.integers(100, size=(ROWS, TOKENS))
    x[..., 0] = 1.0  # the same channel of every token: the router's row for it is what all tokens prefer
    draws, ids = np.stack([x] * 3), np.stack([tokens] * 3)
    for draw, at in ((1, CHANGED), (2, EARLIER)):
        draws[draw, :, at], ids[draw, :, at] = 3 * rng.standard_normal((ROWS, EMBED)), ids[draw, :, at] + 1
    return jnp.asarray(draws, jnp.float32), jnp.asarray(ids)


X, IDS = _inputs()
SEGMENTS = jnp.broadcast_to(1 + (jnp.arange(TOKENS) >= SECOND), (ROWS, TOKENS))
POSITIONS = jnp.broadcast_to(jnp.arange(TOKENS) - SECOND * (jnp.arange(TOKENS) >= SECOND), (ROWS, TOKENS))


def _own(name, *_, **axes):
    """A weight of the router's."""
    return jnp.asarray(np.random.default_rng(1).standard_normal(tuple(axes.values())), jnp.float32)


def _weights(router, demand, training):
    """[3 b t _] the weight of each expert in each token; of soft mixtures, of each token in each other."""
    key = jax.random.key(2) if training else None

    def one(x, ids):
        fields = dict(positions=POSITIONS, segment_ids=SEGMENTS, tokens=ids, deterministic=not training)
        read = context(x, key=key, **fields)
        routed = router.route(_own, router.logits(_own, x, key, demand), x, read, key, demand)
        if isinstance(routed, assignment.SoftChoice):
            return jnp.einsum("btec,bsec->btes", routed.combine, routed.dispatch).reshape(ROWS, TOKENS, -1)
        pair = assignment.pairs(routed)
        row = jnp.arange(ROWS)[:, None]
        return jnp.zeros((ROWS, TOKENS, EXPERTS)).at[row, pair.tokens, pair.experts].add(pair.weights)

    return jax.vmap(one)(X, IDS)


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_depends_on_later_tokens_and_other_documents_where_it_says_so(name):
    router, demand = ROUTERS[name]
    both = jit(lambda: {training: _weights(router, demand, training) for training in (False, True)})
    for training, weights in both().items():
        plain, later, earlier = np.asarray(weights)
        lacks = router.lacks(demand, training=training)
        assert np.array_equal(plain[:, :CHANGED], later[:, :CHANGED]) == ("causal" not in lacks), (training, "causal")
        assert np.array_equal(plain[:, SECOND:], earlier[:, SECOND:]) == ("segments" not in lacks), (training, "others")
        assert np.any(plain) and ("forced" in name or np.any(plain != later))
