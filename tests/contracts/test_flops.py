"""The FLOPs that each sublayer says are those that XLA counts in it, loops unrolled: of a loop it counts one round.

Nothing is compiled or run: XLA counts what the traced program would do. So sizes can be such that matrix products are
nearly all of it, and every scan is unrolled.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from arch.ffns import _experts, mlp, moe
from arch.layers.contract import Context, Memory, SublayerConfig, positions_of
from arch.layers.embedding import Unembedding
from arch.layers.flops import TRAINING, Flops, Row, UnknownFlops, multiply_adds
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.ops.activation import ACTIVATIONS
from arch.ops.attention import attention_mask, visible_pairs
from tests.contracts.sublayers import FFNS, MIXERS, examples, files, xla_flops

ROWS, VOCAB = 30, 1009  # MoE's examples have 3 and 6 experts, which share the rows evenly
ROW = Row(length=64, embed_dim=384, memory_length=80, memory_dim=320)  # pairs of tokens are a twelfth of attention
WIDE_ROW = Row(length=32, embed_dim=1536)  # XLA counts 69 operations for a gelu
WIDER = 96
HEADS = examples("heads")
POSITIONS = examples("positions")


def wide(cfg):
    """The same with wider channels, which is where products are."""
    fields = [field.name for field in dataclasses.fields(cfg) if field.name.endswith("_dim")]
    return cfg.replace(**{name: WIDER * getattr(cfg, name) for name in fields})


@pytest.fixture
def unrolled(monkeypatch):
    """Unrolls all scans from here on; gives the list of their lengths."""
    lengths = []

    def scan(step, carry, xs=None, length=None, reverse=False, **_):
        count = length if xs is None else jax.tree.leaves(xs)[0].shape[0]
        lengths.append(count)
        out = [None] * count
        for i in reversed(range(count)) if reverse else range(count):
            carry, out[i] = step(carry, jax.tree.map(lambda x: x[i], xs))
        return carry, jax.tree.map(lambda *values: jnp.stack(values), *out)

    def even_groups(x, weight, group_sizes, **_):
        groups = x.reshape(len(weight), -1, x.shape[-1])
        return jnp.matmul(groups, weight).reshape(len(x), -1)

    def even_perceptrons(x, inner, down, group_sizes, *, activation):
        first, *gated = (even_groups(x, weight, group_sizes) for weight in inner)
        return even_groups(math.prod(gated, start=ACTIVATIONS[activation](first)), down, group_sizes)

    monkeypatch.setattr(jax.lax, "scan", scan)
    monkeypatch.setattr(_experts, "grouped_matmul", even_groups)
    monkeypatch.setattr(_experts, "grouped_perceptron", even_perceptrons)
    return lengths


def near(flops: Flops, row: Row, times: int = 1):
    """What equals so many times the FLOPs executed, to 2 % or to what is left out anyway in a few gates and masks."""
    return pytest.approx(times * ROWS * flops.executed, rel=0.02, abs=times * ROWS * 16 * row.length * row.embed_dim)


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def backward(function):
    """Values and gradients by all arguments."""

    def both(*arguments):
        value, pull = jax.vjp(function, *arguments)
        return value, pull(value)

    return both


def sublayer(cfg: SublayerConfig, row: Row):
    """(its call as a function of arrays, abstract arguments)."""
    module = cfg.make()

    def apply(run, variables, x, memory):
        context = Context(positions=positions_of(jnp.zeros(x.shape[:2], int)), memory=Memory(memory), embedding=x)
        return run(variables, x, context)

    x, memory = shape(ROWS, row.length, row.embed_dim), shape(ROWS, row.memory_length, row.memory_dim)
    boxes = jax.eval_shape(lambda *args: apply(module.init, jax.random.key(0), *args), x, memory)
    return lambda *args: apply(module.apply, *args).x, (unbox(boxes), x, memory)


def head(cfg):
    """As `sublayer`, of a head."""
    module = cfg.make()

    def apply(run, variables, x, table):
        context = Context(positions=positions_of(jnp.zeros(x.shape[:2], int)))
        return run(variables, x, context, Unembedding(table))

    d = WIDE_ROW.embed_dim
    x, table = shape(ROWS, WIDE_ROW.length, d), shape(VOCAB, d)
    boxes = jax.eval_shape(lambda *args: apply(module.init, jax.random.key(0), *args), x, table)

    def call(*args):
        out = apply(module.apply, *args)
        beside = dict(out.shared)
        return beside.pop("unembed", lambda x: x)(out.x), beside

    return call, (unbox(boxes), x, table)


SUBLAYERS = [pytest.param(wide(cfg), ROW, id=name) for name, cfg in MIXERS.items()]
SUBLAYERS += [pytest.param(wide(cfg), WIDE_ROW, id=name) for name, cfg in FFNS.items()]
BACKWARD = [pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] * (not p.id.endswith("_0"))) for p in SUBLAYERS]


@pytest.mark.parametrize("cfg, row", SUBLAYERS)
def test_a_sublayer_executes_the_flops_it_says(cfg, row, unrolled):
    function, arguments = sublayer(cfg, row)
    assert xla_flops(function, *arguments) == near(cfg.flops(row), row)


@pytest.mark.parametrize("cfg, row", BACKWARD)
def test_forward_and_backward_are_three_times_the_forward(cfg, row, unrolled):
    function, arguments = sublayer(cfg, row)
    count = xla_flops(backward(function), *arguments)
    least = TRAINING * ROWS * cfg.flops(row).executed
    if "stablehlo.fft" in jax.jit(function).lower(*arguments).as_text():  # it goes back by one transform, not by two
        assert 2 / 3 * least < count < 1.02 * least
    else:
        assert count == near(cfg.flops(row), row, TRAINING) or unrolled and count > least  # scans compute states again


@pytest.mark.parametrize("cfg", [pytest.param(cfg, id=name) for name, cfg in HEADS.items()])
def test_a_head_executes_the_flops_it_says(cfg):
    function, arguments = head(cfg)
    said = cfg.flops(WIDE_ROW, multiply_adds(WIDE_ROW.length * WIDE_ROW.embed_dim * VOCAB))
    assert xla_flops(function, *arguments) == pytest.approx(ROWS * said.executed, rel=0.02)


@pytest.mark.parametrize("folder", ["mixers", "ffns", "heads"])
def test_every_file_has_an_example_whose_flops_are_tested(folder):
    tested = {name.rpartition("_")[0] for name in MIXERS | FFNS | HEADS}
    assert [file for file in files(folder) if file not in tested] == []


@pytest.mark.parametrize("position", [pytest.param(cfg, id=name) for name, cfg in POSITIONS.items()])
def test_a_position_scheme_has_no_products_to_count(position):
    if position.acts in ("heads", "logits"):
        cfg = attention.Config(num_heads=2, head_dim=512, position=position)
        function, arguments = sublayer(cfg, ROW)
        assert xla_flops(function, *arguments) == pytest.approx(ROWS * cfg.flops(ROW).executed, rel=0.02)
    else:
        own = lambda name, init, dtype=jnp.float32, **axes: jnp.ones(tuple(axes.values()), dtype)
        count = xla_flops(lambda places: position.embed(own, places, ROW.embed_dim), jnp.zeros((ROWS, ROW.length), int))
        assert count < 0.02 * ROWS * ROW.length * ROW.embed_dim**2


@pytest.mark.parametrize("changes", [{}, {"window": 100}, {"causal": False, "window": 50}])
def test_attention_by_chunks_executes_the_pairs_that_it_meets(changes):
    cfg, row = attention.Config(num_heads=2, head_dim=512, **changes), Row(length=300, embed_dim=256)
    said = cfg.flops(row)
    assert said.required < said.executed < said.required + 4 * 1024 * 150 * 300  # half of all pairs more at most
    function, arguments = sublayer(cfg, row)
    assert xla_flops(function, *arguments) == near(said, row)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 3, 7, 9])
def test_the_pairs_that_attention_requires_are_those_of_its_mask(causal, window):
    places = jnp.arange(7)[None]
    mask = attention_mask(places, places, causal=causal, window=window)
    assert visible_pairs(7, causal=causal, window=window) == int(mask.sum())


def test_causal_attention_requires_half_of_the_pairs_that_it_executes():
    cfg = attention.Config(num_heads=2, head_dim=3)
    projections = 2 * 4 * 7 * 5 * 6
    assert cfg.flops(Row(7, 5)) == Flops(projections + 4 * 6 * 28, projections + 4 * 6 * 49)


def test_experts_that_are_not_chosen_are_not_counted():
    few, many = (moe.Config(num_experts=e, top_k=2, hidden_dim=5).flops(Row(7, 3)) for e in (2, 9))
    assert many.required - few.required == 2 * 7 * 3 * 7  # the router's alone


def test_experts_that_are_not_chosen_are_idle():
    cfg = moe.Config(num_experts=9, top_k=2, hidden_dim=5)
    assert cfg.idle_parameters(3) == 7 * 3 * 3 * 5
    assert mlp.Config(hidden_dim=5).idle_parameters(3) == 0


def test_a_sublayer_that_does_not_say_is_named():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(SublayerConfig):
        pass

    Config.__module__ = "arch.mixers.average"
    with pytest.raises(UnknownFlops, match="^average does not say its FLOPs$"):
        Config().flops(ROW)
