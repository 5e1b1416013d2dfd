"""Small cases of attention over a block map, and the dense computation that the kernels' results must agree with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops import alibi, patterns
from arch.ops.patterns import causal, full, global_tokens, random_blocks, window

PATTERNS = {
    "full": lambda size: full,
    "causal": lambda size: causal,
    "window": lambda size: window(size + size // 2),
    "dilated": lambda size: causal & window(3, dilation=size // 2 + 1),
    "longformer": lambda size: window(size // 2) | global_tokens(0, -1),
    "bigbird, random in each head": lambda size: window(size // 2) | random_blocks(1, seed=3, size=size, draws=HEADS),
    "rows that see nothing": lambda size: patterns.block_list(size, ((0,), (), (0, 1))),
}
HEADS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """Attention of b rows of t tokens, with HEADS heads.

    Attributes:
      pattern: its name.
      dtype: of query, key and value.
      kv_heads: how many heads the keys have.
      length: of the row.
      block: (bq, bk) tokens.
      extras: which of 'segments', 'valid', 'slopes', 'sinks', 'soft cap' there are.
      rows: b.
      channels: of query and key; values have `value_channels`.
      value_channels: of values.
      gain: of the queries; more than some gives extreme logits.
      seed: of the arrays.
    """

    pattern: str
    dtype: str = "float32"
    kv_heads: int = 2
    length: int = 23
    block: tuple[int, int] = (8, 8)
    extras: tuple[str, ...] = ()
    rows: int = 2
    channels: int = 8
    value_channels: int = 8
    gain: float = 1.0
    seed: int = 7

    def __str__(self):
        different = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return " ".join(f"{name}={value}" for name, value in different.items() if value != getattr(Case, name, None))

    @property
    def map(self):
        """The block map."""
        pattern = PATTERNS[self.pattern](self.block[1])
        return patterns.block_map(pattern, self.length, self.length, block=self.block)

    def arrays(self):
        """query, key, value, and the gradients of out and logsumexp."""
        draw = np.random.default_rng(self.seed).normal
        b, t, h, v = self.rows, self.length, self.channels, self.value_channels
        shapes = (b, t, HEADS, h), (b, t, self.kv_heads, h), (b, t, self.kv_heads, v), (b, t, HEADS, v)
        arrays = [jnp.asarray(draw(size=shape), self.dtype) for shape in shapes]
        arrays[0] *= jnp.asarray(self.gain, self.dtype)
        return *arrays, jnp.asarray(draw(size=(b, HEADS, t)), jnp.float32)

    def given(self) -> dict:
        """The keywords of `attend` that this case has."""
        b, t = self.rows, self.length
        segments = jnp.asarray(np.minimum(np.arange(t) // (t // 3), 2)[None] * np.ones((b, 1)), jnp.int32)
        known = {
            "segments": {"query_segments": segments, "key_segments": segments},
            "valid": {"valid": jnp.asarray(np.arange(t)[None] % 5 != np.arange(b)[:, None])},
            "slopes": {"slopes": jnp.asarray(alibi.slopes(HEADS), jnp.float32)},
            "sinks": {"sinks": jnp.asarray([0.5, -1.0, 2.0, 0.0])},
            "soft cap": {"soft_cap": 2.0},
        }
        return {name: value for extra in self.extras for name, value in known[extra].items()}


def dense(query, key, value, *, mask, soft_cap=0.0, slopes=None, sinks=None, valid=None, **segments):
    """(out, logsumexp) of all pairs, in float32."""
    query, key, value = (array.astype(jnp.float32) for array in (query, key, value))
    group = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(array, group, axis=2) for array in (key, value))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key, precision="highest") * query.shape[-1] ** -0.5
    if soft_cap:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    mask = jnp.asarray(mask)[None]
    places = jnp.arange(query.shape[1])
    if slopes is not None:
        logits -= slopes[:, None, None] * jnp.abs(places[:, None] - places)
    if valid is not None:
        mask = mask & valid[:, None, None]
    if segments:
        mask = mask & (segments["query_segments"][:, None, :, None] == segments["key_segments"][:, None, None])
    logits = jnp.where(mask, logits, -jnp.inf)
    if sinks is not None:
        column = jnp.broadcast_to(sinks[:, None, None], (*logits.shape[:3], 1))
        logits = jnp.concatenate([logits, column], axis=-1)
    seen = jnp.any(logits > -jnp.inf, axis=-1, keepdims=True)
    logits = jnp.where(seen, logits, 0.0)
    logsumexp = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    weights = jnp.where(seen, jnp.exp(logits - logsumexp), 0.0)[..., : key.shape[1]]
    out = jnp.einsum("bnts,bsnv->btnv", weights, value, precision="highest")
    return out, jnp.where(seen, logsumexp, -jnp.inf)[..., 0]


def with_gradients(function: Callable, case: Case) -> dict:
    """Results of `function(query, key, value, **given)`, and the gradients by its arrays and the sinks, by name."""
    *arrays, d_out, d_logsumexp = case.arrays()
    given = case.given()
    sinks = {"sinks": given.pop("sinks")} if "sinks" in given else {}

    def both(query, key, value, sinks):
        call = lambda query, key, value, sinks: function(query, key, value, **sinks, **given)
        (out, logsumexp), pull = jax.vjp(call, query, key, value, sinks)
        *found, d_sinks = pull((d_out.astype(out.dtype), jnp.where(jnp.isfinite(logsumexp), d_logsumexp, 0.0)))
        return out, logsumexp, *found, d_sinks

    names = ("out", "logsumexp", "d_query", "d_key", "d_value", "d_sinks")
    return dict(zip(names, jax.jit(both)(*arrays, sinks)))


def agree(case: Case, attend: Callable) -> None:
    """Asserts that values and gradients are those of the dense computation.

    Weights are rounded to the arrays' dtype before they are multiplied, as the operands are, and sums are in float32:
    errors are a few units of the last place of the greatest number of each result; a logit's, which grows with `gain`,
    are relative ones of its weight.
    """
    expected = with_gradients(lambda *args, **given: dense(*args, mask=case.map.dense(), **given), case)
    found = with_gradients(attend, case)
    single = 2.0**-23
    unit = max(float(jnp.finfo(case.dtype).eps), single * case.gain)
    for name, exact in expected.items():
        for mine, exact in zip(jax.tree.leaves(found[name]), jax.tree.leaves(exact), strict=True):
            mine, exact = (np.asarray(array, np.float64) for array in (mine, exact))
            finite = np.isfinite(exact)
            np.testing.assert_array_equal(mine[~finite], exact[~finite], err_msg=name)
            most = np.abs(exact[finite]).max(initial=1.0)
            least = 8 * most * (single if name == "logsumexp" else unit)
            np.testing.assert_allclose(mine[finite], exact[finite], rtol=0, atol=least, err_msg=name)


def calls(module, name, monkeypatch):
    """A list that gets an entry whenever the kernels run this function of the module, which all visits do."""
    seen, function = [], getattr(module, name)

    def counted(*args, **keywords):
        jax.debug.callback(lambda: seen.append(name))
        return function(*args, **keywords)

    monkeypatch.setattr(module, name, counted)
    return seen
