"""The contract bears the papers' architectures, some with sublayers that the library lacks yet, as small decoders.

Each is held to: single steps after a prefill equal one pass, the scanned form equals the unrolled one, and gradients
reach every weight.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from arch import config, tree
from arch.ffns import gated_mlp, mlp, moe
from arch.layers import block, stack
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.weight import constant, normal, unbox, weight
from arch.mixers import attention, cross_attention, mamba
from arch.models import decoder
from arch.positions import relative
from tests.contracts.sublayers import context, holds, jit, random_like

ROWS, TOKENS, PREFILL, VOCAB, EMBED = 2, 7, 3, 11, 6


# T5 (Raffel et al., 2019, arXiv 1910.10683): logits are biased by distance; the first layer's table serves all layers.

TABLE = "layers/0/attention/relative"


def _t5():
    def layer(owner):
        position = relative.Config(buckets=6, max_distance=5, owner=owner)
        attend_self = attention.Config(num_heads=2, head_dim=3, scale=1.0, position=position)
        attend_memory = cross_attention.Config(num_heads=2, head_dim=3)
        return block.Config(sublayers=(attend_self, attend_memory, mlp.Config(hidden_dim=5, activation="relu")))

    return stack.Config(prefix=(layer(True),), pattern=(layer(False),), repeats=2)


# RWKV (Peng et al., 2023, arXiv 2305.13048): token shift before both sublayers, so that the ffn has a cache too.


def _shift(x, last):
    """The token before each one, and the last token."""
    return jnp.concatenate([last[:, None].astype(x.dtype), x[:, :-1]], axis=1), x[:, -1]


class Mix(nn.Module):
    """x and its predecessor mixed channel by channel, then projected."""

    hidden: int

    @nn.compact
    def __call__(self, x, before):
        d = x.shape[-1]
        mu = weight(self, "mix", constant(0.5), embed=d)
        return (mu * x + (1 - mu) * before) @ weight(self, "kernel", normal(d**-0.5), embed=d, hidden=self.hidden)


@config.frozen
class TimeMix(SublayerConfig):
    """A decaying sum of exp(k) v over the past, divided by the sum of exp(k)."""

    label = "time_mix"

    def make(self, name=None):
        return TimeMixModule(self, name=name)

    def lacks(self):
        return ("segments",)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any):
        zeros = jnp.zeros((batch, embed_dim), jnp.float32)
        return {"last": zeros.astype(dtype), "over": zeros, "under": zeros}


class TimeMixModule(nn.Module):
    cfg: TimeMix

    @nn.compact
    def __call__(self, x, context: Context, cache=None) -> Output:
        d = x.shape[-1]
        state = self.cfg.init_cache(x.shape[0], 0, d, x.dtype) if cache is None else cache
        before, last = _shift(x, state["last"])
        r, k, v = (Mix(d, name=name)(x, before) for name in ("receptance", "key", "value"))
        keep = jnp.exp(-jnp.exp(weight(self, "decay", constant(0.0), embed=d)))

        def step(state, token):
            over, under = state
            k, v = token
            over, under = keep * over + jnp.exp(k) * v, keep * under + jnp.exp(k)
            return (over, under), over / under

        (over, under), y = lax.scan(step, (state["over"], state["under"]), (k.swapaxes(0, 1), v.swapaxes(0, 1)))
        out = (jax.nn.sigmoid(r) * y.swapaxes(0, 1)) @ weight(self, "out", normal(d**-0.5), hidden=d, embed=d)
        return Output(out, None if cache is None else {"last": last, "over": over, "under": under})


@config.frozen
class ChannelMix(SublayerConfig):
    """A squared-ReLU perceptron of the token and the one before it."""

    hidden_dim: int
    label = "channel_mix"

    def make(self, name=None):
        return ChannelMixModule(self, name=name)

    def lacks(self):
        return ("segments",)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any):
        return {"last": jnp.zeros((batch, embed_dim), dtype)}


class ChannelMixModule(nn.Module):
    cfg: ChannelMix

    @nn.compact
    def __call__(self, x, context: Context, cache=None) -> Output:
        d, f = x.shape[-1], self.cfg.hidden_dim
        before, last = _shift(x, jnp.zeros_like(x[:, 0]) if cache is None else cache["last"])
        hidden = jnp.square(jax.nn.relu(Mix(f, name="key")(x, before)))
        out = jax.nn.sigmoid(Mix(d, name="receptance")(x, before)) * (
            hidden @ weight(self, "value", normal(f**-0.5), hidden=f, embed=d)
        )
        return Output(out, None if cache is None else {"last": last})


def _rwkv():
    layer = block.Config(sublayers=(TimeMix(), ChannelMix(hidden_dim=5)))
    return stack.Config(pattern=(layer,), repeats=2)


# Flamingo (Alayrac et al., 2022, arXiv 2204.14198): gated cross-attention and a gated ffn before each decoder layer.


@config.frozen
class GatedFfn(SublayerConfig):
    """tanh(gate) times a perceptron, the gate starting at 0."""

    inner: mlp.Config
    label = "gated_ffn"

    def make(self, name=None):
        return GatedFfnModule(self, name=name)


class GatedFfnModule(nn.Module):
    cfg: GatedFfn

    @nn.compact
    def __call__(self, x, context: Context, cache=None) -> Output:
        return Output(jnp.tanh(weight(self, "gate", constant(0.0))) * self.cfg.inner.make("mlp")(x, context).x)


ADDED = (cross_attention.Config(num_heads=2, head_dim=3, gated=True), GatedFfn(inner=mlp.Config(hidden_dim=5)))
FROZEN = (attention.Config(num_heads=2, head_dim=4), gated_mlp.Config(hidden_dim=5))


def _flamingo(sublayers=ADDED + FROZEN):
    return stack.Config(pattern=(block.Config(sublayers=sublayers),), repeats=2)


# Jamba (Lieber et al., 2024, arXiv 2403.19887): periods of eight blocks, one with attention, every other one with MoE.


def _jamba(blocks=range(8)):
    dense, sparse = mlp.Config(hidden_dim=5), moe.Config(num_experts=3, top_k=2, hidden_dim=3)
    mixer = lambda i: attention.Config(num_heads=2, head_dim=4) if i == 4 else mamba.Config(inner_dim=4, state_dim=3)
    layers = (block.Config(sublayers=(mixer(i), sparse if i % 2 else dense)) for i in blocks)
    return stack.Config(pattern=tuple(layers), repeats=2)


PAPERS = {"t5": _t5(), "rwkv": _rwkv(), "flamingo": _flamingo(), "jamba": _jamba(range(2, 5)), "jamba_whole": _jamba()}
"""Of Jamba first the middle of its period, which has one block of each kind, and is faster to compile."""
IN_NO_FAMILY = ("rwkv", "flamingo")
"""The others are slow here: their families are held to the published code in tests/parity."""


class Run:
    """One paper's decoder on random tokens with random weights."""

    def __init__(self, layers: stack.Config):
        self.cfg = decoder.Config(vocab_size=VOCAB, embed_dim=EMBED, layers=layers)
        self.model = self.cfg.make()
        self.tokens = jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=(ROWS, TOKENS)))
        self.boxes = jax.eval_shape(self.model.init, jax.random.key(0), self.tokens, context(self.tokens))["params"]
        self.params = random_like(unbox(self.boxes))
        self.call = jit(self.apply)

    def apply(self, params, tokens, context, cache=None):
        return self.model.apply({"params": params}, tokens, context, cache)

    def full(self, params):
        return self.call(params, self.tokens, context(self.tokens)).x


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in IN_NO_FAMILY)) for name in PAPERS],
)
def run(request) -> Run:
    return Run(PAPERS[request.param])


def test_prefill_and_single_steps_equal_one_pass(run):
    params, cache = tree.unstack(run.params), run.cfg.init_cache(ROWS, TOKENS)
    expected, start, parts = run.full(run.params), 0, []
    for size in [PREFILL] + [1] * (TOKENS - PREFILL):
        part = run.tokens[:, start : start + size]
        out = run.call(params, part, context(part, start), cache)
        cache, start = out.cache, start + size
        parts.append(out.x)
    assert holds(jnp.concatenate(parts, axis=1), expected, 1e-4)


def test_scanned_equals_unrolled(run):
    assert holds(run.full(tree.unstack(run.params)), run.full(run.params))


def test_gradients_are_finite_and_reach_every_weight(run):
    def objective(params):
        out = run.apply(params, run.tokens, context(run.tokens))
        return jnp.mean(jax.nn.log_softmax(out.x)[..., 3]) + sum(out.aux.losses.values(), start=0.0)

    gradients = tree.paths(jit(jax.grad(objective))(run.params))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), path


def test_t5_s_later_layers_have_no_table_of_their_own():
    paths = [path for path in tree.paths(tree.unstack(Run(_t5()).params)) if path.endswith("relative")]
    assert paths == [TABLE]


def test_t5_s_table_of_the_first_layer_reaches_the_later_ones():
    """With the first layer's own attention silenced, its table still changes the result."""
    run = Run(_t5())
    out = "layers/0/attention/out"
    silent = tree.map_with_path(lambda path, leaf: 0 * leaf if path == out else leaf, run.params)
    change = jnp.arange(6.0)[:, None]
    other = tree.map_with_path(lambda path, leaf: leaf + change if path == TABLE else leaf, silent)
    assert not holds(run.full(other), run.full(silent), 1e-3)


def test_flamingo_s_closed_gates_leave_the_decoder_unchanged():
    run, plain = Run(_flamingo()), Run(_flamingo(FROZEN))
    gates = tree.select(run.params, ["cross_attention/gate", "gated_ffn/gate"])
    closed = jax.tree.map(lambda leaf, is_gate: 0 * leaf if is_gate else leaf, run.params, gates)
    mask = tree.select(closed, [r"/cross_attention", r"/gated_ffn"])
    added, frozen = tree.partition(closed, mask)
    assert tree.paths(frozen).keys() == tree.paths(plain.params).keys()
    assert holds(run.full(closed), plain.full(frozen), 1e-6)
    assert not holds(run.full(run.params), plain.full(frozen), 1e-3)


def test_jamba_s_period_has_one_attention_and_every_other_block_moe():
    layers = tree.unstack(Run(_jamba()).params)["layers"]
    mixers = ["attention" if "attention" in layers[str(i)] else "mamba" for i in range(16)]
    assert mixers == (["mamba"] * 4 + ["attention"] + ["mamba"] * 3) * 2
    assert [i for i in range(16) if "moe" in layers[str(i)]] == list(range(1, 16, 2))
