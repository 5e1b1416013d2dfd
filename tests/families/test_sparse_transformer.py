"""Sparse Transformers see what the paper's equations say, of rows as long as the paper's; sizes: `test_presets`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.decode import generate as decoding
from arch.families import sparse_transformer
from arch.ops.activation import ACTIVATIONS
from arch.patterns import fixed, strided
from arch.positions import learned_axes

SIZES = dict(embed_dim=12, num_layers=1, num_heads=3, hidden_dim=7, vocab_size=11)
GRID = learned_axes.Config(shape=(5, 4))
TINY = {
    "fixed": sparse_transformer.compose(**SIZES, pattern=fixed.Config(stride=4, summaries=2), position=GRID),
    "strided": sparse_transformer.compose(**SIZES, pattern=strided.Config(stride=4), position=GRID),
}


def seen(pattern, i):
    """The keys of query i by the sets of sec. 4.3, of both heads together."""
    if isinstance(pattern, strided.Config):
        return {j for j in range(i + 1) if j >= max(0, i - 3) or (i - j) % 4 == 0}
    return {j for j in range(i + 1) if j // 4 == i // 4 or j % 4 in (2, 3)}


@pytest.mark.parametrize("name", TINY)
def test_a_token_sees_the_paper_s_sets(name):
    mixer = TINY[name].layers.blocks[0].sublayers[0]
    [mask] = mixer.map(13).dense()
    assert [set(np.flatnonzero(row).tolist()) for row in mask] == [seen(mixer.pattern, i) for i in range(13)]


@pytest.mark.parametrize("name", sparse_transformer.PRESETS)
def test_a_preset_s_rows_are_of_12288_tokens_of_which_a_token_sees_few(name):
    cfg = sparse_transformer.PRESETS[name]
    length = cfg.position.max_length
    assert length == 12288
    blocks = cfg.layers.blocks[0].sublayers[0].map(length)
    # the root of 12288 is 111; a fixed token sees 64 of its block and 32 of each of 48 others on average
    assert blocks.visible_pairs < 16 * 111 * length


@pytest.mark.slow
def test_decoding_with_a_cache_continues_as_whole_rows_do():
    model = TINY["fixed"].make()
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    prompt, new = [3, 1, 4, 1, 5, 9, 2], 5
    cfg = decoding.Config(max_new_tokens=new, temperature=0.0)
    [made] = decoding.generate(model, params, [prompt], cfg, key=jax.random.key(0))
    whole = model.apply({"params": params}, jnp.asarray([prompt + made])).x[0]
    assert np.argmax(whole[len(prompt) - 1 : -1], axis=-1).tolist() == made


def test_its_gelu_is_the_sigmoid_form():
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(ACTIVATIONS["gelu_sigmoid"](x), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
