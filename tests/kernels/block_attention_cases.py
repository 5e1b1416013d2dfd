"""Small cases of attention over a block map, and the dense computation that the kernels' results must agree with."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arch.kernels.block_attention import flash
from arch.kernels.block_attention.rule import Tables
from arch.kernels.block_attention.visits import FIRST, LAST, PARTIAL, VISIBLE
from arch.ops import alibi, patterns
from arch.ops.patterns import causal, full, global_tokens, random_blocks, window

HEADS = 4
PATTERNS = {
    "full": lambda size, _: full,
    "causal": lambda size, _: causal,
    "window": lambda size, _: window(size + size // 2),
    "dilated": lambda size, _: causal & window(3, dilation=size // 2 + 1),
    "longformer": lambda size, _: window(size // 2) | global_tokens(0, -1),
    "bigbird, random in each head": lambda size, n: window(size // 2) | random_blocks(1, seed=3, size=size, draws=n),
    "rows that see nothing": lambda size, _: patterns.block_list(size, ((0,), (), (0, 1))),
}
"""Of the size of a block, and the number of heads."""
PER_HEAD = "bigbird, random in each head"
SHARED = tuple(name for name in PATTERNS if name != PER_HEAD)


@dataclasses.dataclass(frozen=True)
class Case:
    """Attention of b rows of t tokens.

    Attributes:
      pattern: its name.
      dtype: of query, key and value.
      heads: of the queries, at most HEADS.
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
    heads: int = HEADS
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
        pattern = PATTERNS[self.pattern](self.block[1], self.heads)
        return patterns.block_map(pattern, self.length, self.length, block=self.block)

    def arrays(self):
        """query, key, value, and the gradients of out and logsumexp."""
        draw = np.random.default_rng(self.seed).normal
        b, t, h, v = self.rows, self.length, self.channels, self.value_channels
        n, k = self.heads, self.kv_heads
        shapes = (b, t, n, h), (b, t, k, h), (b, t, k, v), (b, t, n, v)
        arrays = [jnp.asarray(draw(size=shape), self.dtype) for shape in shapes]
        arrays[0] *= jnp.asarray(self.gain, self.dtype)
        return *arrays, jnp.asarray(draw(size=(b, n, t)), jnp.float32)

    def given(self) -> dict:
        """The keywords of `attend` that this case has."""
        b, t = self.rows, self.length
        segments = jnp.asarray(np.minimum(np.arange(t) // (t // 3), 2)[None] * np.ones((b, 1)), jnp.int32)
        known = {
            "segments": {"query_segments": segments, "key_segments": segments},
            "valid": {"valid": jnp.asarray(np.arange(t)[None] % 5 != np.arange(b)[:, None])},
            "slopes": {"slopes": jnp.asarray(alibi.slopes(self.heads), jnp.float32)},
            "sinks": {"sinks": jnp.asarray([0.5, -1.0, 2.0, 0.0][: self.heads])},
            "soft cap": {"soft_cap": 2.0},
        }
        return {name: value for extra in self.extras for name, value in known[extra].items()}


def dense(query, key, value, *, mask, dtype="float32", soft_cap=0.0, slopes=None, sinks=None, valid=None, **segments):
    """(out, logsumexp) of all pairs, computed in this dtype."""
    query, key, value = (array.astype(dtype) for array in (query, key, value))
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


def program(function: Callable, case: Case) -> Callable:
    """`run(given)`: results of `function(query, key, value, given, **extras)`, and the gradients, by name.

    The gradients are those by the case's three arrays and its sinks. What is given does not count to the program.
    """
    *arrays, d_out, d_logsumexp = case.arrays()
    extras = case.given()
    sinks = {"sinks": extras.pop("sinks")} if "sinks" in extras else {}

    def both(given, query, key, value, sinks):
        call = lambda query, key, value, sinks: function(query, key, value, given, **sinks, **extras)
        (out, logsumexp), pull = jax.vjp(call, query, key, value, sinks)
        d_seen = jnp.where(jnp.isfinite(logsumexp), d_logsumexp, 0.0).astype(logsumexp.dtype)
        *found, d_sinks = pull((d_out.astype(out.dtype), d_seen))
        return out, logsumexp, *found, d_sinks

    names, compiled = ("out", "logsumexp", "d_query", "d_key", "d_value", "d_sinks"), jax.jit(both)
    return lambda given: dict(zip(names, compiled(given, *arrays, sinks)))


def with_gradients(function: Callable, case: Case) -> dict:
    """Results of `function(query, key, value, **extras)`, and the gradients by its arrays and the sinks, by name."""
    return program(lambda query, key, value, _, **extras: function(query, key, value, **extras), case)(None)


def agree(case: Case, attend: Callable) -> None:
    """Asserts that values and gradients are those of the dense computation in float64."""
    exact = lambda *args, **given: dense(*args, mask=case.map.dense(), dtype="float64", **given)
    with jax.enable_x64(True):
        expected = with_gradients(exact, case)
    _close(with_gradients(attend, case), expected, case, "")


def agree_on(patterns: Sequence[str], case: Case, attend: Callable, kernels: str) -> None:
    """The same of several patterns, whose lists and masks are data to one program."""
    mine = program(lambda *args, **given: attend(*args[:3], case.map, given_tables=args[3], **given), case)
    with jax.enable_x64(True):
        theirs = program(lambda *args, **given: dense(*args[:3], mask=args[3], dtype="float64", **given), case)
    maps = [dataclasses.replace(case, pattern=name).map for name in patterns]
    for name, map_, read in zip(patterns, maps, _as_many(maps, case.heads // case.kv_heads, kernels)):
        with jax.enable_x64(True):
            expected = theirs(jnp.asarray(map_.dense()))
        _close(mine(read), expected, case, name)


def must_meet(pairs, *, dtypes: Sequence[str], kv_heads: Sequence[int], block: int) -> None:
    """Asserts that each two of pattern, dtype, key-value heads, and whole or odd length meet in (patterns, case)."""
    values = {"pattern": PATTERNS, "dtype": dtypes, "kv_heads": kv_heads, "odd": (False, True)}
    met = set()
    for names, case in pairs:
        for pattern in names:
            had = {"pattern": pattern, "dtype": case.dtype, "kv_heads": case.kv_heads, "odd": case.length % block > 0}
            met |= set(itertools.combinations(had.items(), 2))
    for one, other in itertools.combinations(values, 2):
        for pair in itertools.product(values[one], values[other]):
            assert tuple(zip((one, other), pair)) in met


def _as_many(maps, group, kernels) -> list[Tables]:
    """Tables of maps that all have as many visits, and masks, as the one that has most."""

    def longer(*lists):
        visits, masks = (max(each[i].shape[j] for each in lists) for i, j in ((0, 1), (5, 0)))
        for each in lists:
            more = (0, 0), (0, visits - each.place.shape[1])
            flags = np.pad(each.flags & ~(VISIBLE | PARTIAL | FIRST | LAST), more, mode="edge")
            flags[:, : each.flags.shape[1]] = each.flags
            unused = np.zeros((masks - len(each.masks), *each.masks.shape[1:]), each.masks.dtype)
            place = np.pad(each.place, more, mode="edge")
            yield each._replace(place=place, flags=flags, masks=np.concatenate([each.masks, unused]))

    forth, back = zip(*(flash.tables(map_, group, kernels) for map_ in maps))
    return [Tables(*pair) for pair in zip(longer(*forth), longer(*back))]


def _close(found: dict, expected: dict, case: Case, which: str) -> None:
    """Asserts that results are near.

    Weights are rounded to the arrays' dtype before they are multiplied, as the operands are, and sums are in float32:
    errors are a few units of the last place of the greatest number of each result; a logit's, which grows with `gain`,
    are relative ones of its weight.
    """
    single = 2.0**-23
    unit = max(float(jnp.finfo(case.dtype).eps), single * case.gain)
    for name, exact in expected.items():
        for mine, exact in zip(jax.tree.leaves(found[name]), jax.tree.leaves(exact), strict=True):
            mine, exact = (np.asarray(array, np.float64) for array in (mine, exact))
            finite = np.isfinite(exact)
            np.testing.assert_array_equal(mine[~finite], exact[~finite], err_msg=f"{which} {name}")
            most = np.abs(exact[finite]).max(initial=1.0)
            least = 8 * most * (single if name == "logsumexp" else unit)
            np.testing.assert_allclose(mine[finite], exact[finite], rtol=0, atol=least, err_msg=f"{which} {name}")


def calls(module, name, monkeypatch):
    """A list that gets an entry whenever the kernels run this function of the module, which all visits do."""
    seen, function = [], getattr(module, name)

    def counted(*args, **keywords):
        jax.debug.callback(lambda: seen.append(name))
        return function(*args, **keywords)

    monkeypatch.setattr(module, name, counted)
    return seen
