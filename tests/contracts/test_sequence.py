"""What a sublayer may see: its past, its own row, its own document; and what its cache remembers.

Each test also holds a claimed lack to be real: a sublayer that says it is not causal has to show it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.contracts.sublayers import ROWS, TOKENS, context, holds, inputs

GARBAGE = 3.0


def test_changing_a_token_leaves_earlier_outputs_unchanged(case):
    x, j = inputs(), 13
    out = case(x.at[:, j].add(1.0), context(x)).x
    assert holds(out[:, :j], case.full[:, :j], 1e-6) == ("causal" not in case.cfg.lacks())


def test_changing_a_token_changes_its_own_output(case):
    x, j = inputs(), 13
    out = case(x.at[:, j].add(1.0), context(x)).x
    assert not holds(out[:, j], case.full[:, j], 1e-3)


def test_rows_are_independent(case):
    x = inputs()
    out = case(x.at[1].add(1.0), context(x)).x
    assert holds(out[np.array([0, 2])], case.full[np.array([0, 2])], 1e-6)


def test_one_pass_equals_prefill_and_single_steps(case):
    assert holds(case.chunks([7] + [1] * (TOKENS - 7))[0], case.full) == ("cache" not in case.cfg.lacks())


def test_one_pass_equals_single_steps(case):
    assert holds(case.chunks([1] * TOKENS)[0], case.full) == ("cache" not in case.cfg.lacks())


def test_one_pass_equals_chunks_of_three(case):
    assert holds(case.chunks([3] * (TOKENS // 3))[0], case.full) == ("cache" not in case.cfg.lacks())


def test_one_pass_equals_chunks_of_seven(case):
    assert holds(case.chunks([7] * (TOKENS // 7))[0], case.full) == ("cache" not in case.cfg.lacks())


def test_a_call_keeps_the_cache_s_structure_shapes_and_types(case):
    describe = lambda cache: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), cache)
    for dtype in (jnp.float32, jnp.bfloat16):
        empty = case.empty_cache(dtype)
        x = inputs().astype(dtype)
        cache = jax.eval_shape(lambda x: case.apply(case.params, x, context(x), empty).cache, x)
        assert describe(cache) == describe(empty)


def test_without_a_cache_none_comes_out(case):
    assert case(inputs(), context(inputs())).cache is None


def _pad(x, begin, lengths, width):
    """[b width d] the next `lengths` tokens of each row from `begin` on, garbage behind them, and which are valid."""
    out = np.full((x.shape[0], width, x.shape[2]), GARBAGE, np.float32)
    for row, (start, length) in enumerate(zip(begin, lengths)):
        out[row, :length] = x[row, start : start + length]
    return jnp.asarray(out), jnp.asarray(np.arange(width)[None] < np.asarray(lengths)[:, None])


def test_padding_behind_ragged_rows_changes_nothing(case):
    x, lengths = inputs(), [5, TOKENS, 5]
    padded, valid = _pad(x, [0] * ROWS, lengths, TOKENS)
    out = case(padded, context(padded, valid=valid)).x
    alone = case(x[:, :5], context(x[:, :5])).x
    same = holds(out[0, :5], alone[0]) and holds(out[2, :5], alone[2]) and holds(out[1], case.full[1])
    assert same == ("padding" not in case.cfg.lacks())


def test_ragged_prompts_in_two_parts_and_steps_equal_one_pass(case):
    """Rows get 4, 7, 0, then 7, 2, 5 more tokens in calls of 7, then single ones: each row equals its own full pass."""
    if "cache" in case.cfg.lacks():
        return  # single steps already differ from one pass, as test_one_pass_equals_single_steps holds
    x, cache = np.asarray(inputs()), case.empty_cache()
    begin, got = np.zeros(ROWS, int), [[] for _ in range(ROWS)]
    for lengths in ([4, 7, 0], [7, 2, 5]):
        chunk, valid = _pad(x, begin, lengths, 7)
        out = case(chunk, context(chunk, begin, valid=valid), cache)
        cache = out.cache
        for row, length in enumerate(lengths):
            got[row].extend(np.asarray(out.x[row, :length]))
        begin = begin + lengths
    for _ in range(TOKENS - begin.max()):
        token = jnp.asarray(x[np.arange(ROWS), begin][:, None])
        out = case(token, context(token, begin), cache)
        cache, begin = out.cache, begin + 1
        for row in range(ROWS):
            got[row].append(np.asarray(out.x[row, 0]))
    for row in range(ROWS):
        assert holds(np.stack(got[row]), case.full[row, : len(got[row])])


def test_packed_documents_equal_the_documents_alone(case):
    """Rows hold documents of 8 and 13 tokens, of 13 and 5 before padding, and one of 21."""
    x, ends = inputs(), ((8, 21), (13, 18), (21,))
    segments, positions = np.zeros((ROWS, TOKENS), np.int32), np.zeros((ROWS, TOKENS), np.int32)
    for row, stops in enumerate(ends):
        for number, (start, stop) in enumerate(zip((0, *stops), stops), 1):
            segments[row, start:stop], positions[row, start:stop] = number, np.arange(stop - start)
    segments, positions = jnp.asarray(segments), jnp.asarray(positions)
    packed = case(x, context(x, segment_ids=segments, positions=positions)).x

    alone_x, valid = _pad(np.asarray(x), [8, 13, 0], [13, 5, 21], TOKENS)
    alone = case(alone_x, context(alone_x, valid=valid)).x
    same = holds(packed[0, 8:], alone[0, :13]) and holds(packed[1, 13:18], alone[1, :5]) and holds(packed[2], alone[2])
    assert same == ("segments" not in case.cfg.lacks())
