"""What is particular to latent attention: what its cache holds, values of another width, one key that turns for all."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.mixers import latent_attention
from arch.ops.attention import attend, attention_mask
from arch.ops.chunked_attention import chunked_attend
from arch.positions import alibi
from tests.contracts.sublayers import Case, random_like

CFG = latent_attention.EXAMPLES[0]


def test_the_cache_holds_a_latent_and_one_key_for_all_heads():
    cache = CFG.init_cache(3, 13, 7, jnp.bfloat16)
    assert cache["latent"].shape == (3, 1, 13, CFG.latent_dim + CFG.rope_dim)
    assert cache["latent"].dtype == jnp.bfloat16


def test_the_key_that_turns_is_one_for_all_heads():
    assert Case(CFG).params["rope_key"].shape == (7, CFG.rope_dim)


def test_a_scheme_that_acts_on_logits_is_refused():
    with pytest.raises(ValueError, match="position='alibi' must act at heads here; it acts at logits"):
        CFG.replace(position=alibi.Config())


@pytest.mark.slow
def test_values_of_another_width_go_by_chunks_as_at_once():
    wide, narrow = jax.ShapeDtypeStruct((2, 11, 3, 6), jnp.float32), jax.ShapeDtypeStruct((2, 11, 3, 5), jnp.float32)
    arrays = [random_like(shape, seed) for seed, shape in enumerate((wide, wide, narrow))]
    places = jnp.arange(11)[None]
    at_once = partial(attend, mask=attention_mask(places, places, causal=True), scale=0.4)
    by_chunks = partial(chunked_attend, causal=True, scale=0.4, chunk=4)
    (out, back), (expected, expected_back) = (jax.vjp(attention, *arrays) for attention in (by_chunks, at_once))
    assert out.shape == (2, 11, 3, 5)
    for mine, other in zip((out, *back(out)), (expected, *expected_back(expected)), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
