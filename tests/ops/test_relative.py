"""T5's buckets: exact for near keys, logarithmic for far ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.relative import beginnings, bias, bucket

OFFSETS = jnp.arange(-150, 151)


def _bucket(offset, buckets, max_distance, bidirectional):
    """The last bucket that begins at or before a distance: bucket e + k begins at e (D / e)^(k / m), in integers."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if offset > 0 else 0
    distance = abs(offset) if bidirectional else max(-offset, 0)
    e = buckets // 2
    m = buckets - e
    if distance < e:
        return first + distance
    return first + max(e + k for k in range(m) if distance**m * e**k >= max_distance**k * e**m)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (6, 11), (10, 17)])
def test_buckets_are_the_paper_s(buckets, max_distance, bidirectional):
    fields = dict(buckets=buckets, max_distance=max_distance, bidirectional=bidirectional)
    np.testing.assert_array_equal(bucket(OFFSETS, **fields), [_bucket(int(o), **fields) for o in OFFSETS])


def test_the_first_half_of_t5_s_buckets_are_single_distances_and_all_from_128_on_share_the_last():
    found = np.asarray(bucket(-jnp.arange(1000), buckets=32, max_distance=128, bidirectional=False))
    assert list(found[:17]) == list(range(17)) and set(found[128:]) == {31} and found[112] == 30
    assert np.all(np.diff(found) >= 0) and set(found) == set(range(32))


def test_buckets_of_distances_beyond_int32_are_the_paper_s():
    distances = jnp.asarray([0, 15, 16, 17, 10**6, 10**9, 2**31 - 1])
    fields = dict(buckets=32, max_distance=10**11, bidirectional=False)
    np.testing.assert_array_equal(bucket(-distances, **fields), [_bucket(-int(d), **fields) for d in distances])


def test_no_bucket_begins_where_no_int32_reaches():
    assert beginnings(32, 2**31 - 1).size == 31 and beginnings(32, 10**11).size < 31


def test_keys_behind_the_query_have_buckets_of_their_own_when_attention_looks_ahead():
    found = np.asarray(bucket(OFFSETS, buckets=32, max_distance=128, bidirectional=True))
    assert set(found[OFFSETS <= 0]) == set(range(16)) and set(found[OFFSETS > 0]) == set(range(17, 32))


def test_keys_behind_the_query_count_as_its_own_place_when_it_does_not():
    assert set(np.asarray(bucket(jnp.arange(9), buckets=8, max_distance=20, bidirectional=False))) == {0}


def test_the_bias_is_the_table_s_entry_of_each_pair():
    table, places = jnp.asarray([[0.0, 10], [1, 11], [2, 12], [3, 13]]), jnp.arange(4)[None]
    found = bias(table, places[:, 2:], places, max_distance=6, bidirectional=False)
    np.testing.assert_array_equal(found, [[[[2, 1, 0, 0], [2, 2, 1, 0]], [[12, 11, 10, 10], [12, 12, 11, 10]]]])
