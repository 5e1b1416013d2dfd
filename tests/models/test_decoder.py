"""What the decoder does around its layers: positions and a norm at the input, a factor at the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.decode import generate as decoding
from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.models import decoder
from arch.positions import alibi, learned, none, rope, sinusoidal
from tests.contracts.sublayers import holds, jit, random_like

VOCAB, EMBED, ROWS, TOKENS = 11, 6, 3, 7
TOKEN_IDS = jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=(ROWS, TOKENS)))
BLIND = attention.Config(num_heads=2, head_dim=3, position=none.Config())
INPUT = {
    "sinusoidal": sinusoidal.Config(),
    "halves": sinusoidal.Config(pairing="halves"),
    "learned": learned.Config(length=TOKENS),
    "offset": learned.Config(length=TOKENS + 2, offset=2),
}


def _config(**fields):
    layers = stack.Config(pattern=(block.Config(sublayers=(BLIND, mlp.Config(hidden_dim=5))),))
    return decoder.Config(vocab_size=VOCAB, embed_dim=EMBED, layers=layers, **fields)


class Run:
    """A decoder with random parameters and its compiled call."""

    def __init__(self, **fields):
        self.cfg = _config(**fields)
        self.model = self.cfg.make()
        self.params = random_like(unbox(jax.eval_shape(self.model.init, jax.random.key(0), TOKEN_IDS[:, :2])["params"]))
        self.call = jit(lambda params, *args: self.model.apply({"params": params}, *args))

    def __call__(self, tokens, positions=None, cache=None, **fields):
        context = Context(positions_of(tokens) if positions is None else positions, **fields)
        return self.call(self.params, tokens, context, cache)


@pytest.fixture(scope="module", params=INPUT)
def run(request):
    return Run(position=INPUT[request.param])


def test_positions_at_the_input_tell_where_a_token_stands(run):
    """A causal layer without positions of its own sees the last token's past as a set."""
    swapped = TOKEN_IDS[:, np.array([2, 1, 0, 3, 4, 5, 6])]
    assert np.any(TOKEN_IDS[:, 0] != TOKEN_IDS[:, 2])
    assert not holds(run(swapped).x[:, -1], run(TOKEN_IDS).x[:, -1], 1e-3)
    blind = Run()
    assert holds(blind(swapped).x[:, -1], blind(TOKEN_IDS).x[:, -1])


def test_packed_documents_have_positions_of_their_own(run):
    """Rows hold documents of 3 and 4 tokens, of 4 and 2 before padding, and one of 7."""
    ends = ((3, 7), (4, 6), (7,))
    segments, positions = np.zeros((2, ROWS, TOKENS), np.int32)
    for row, stops in enumerate(ends):
        for number, (start, stop) in enumerate(zip((0, *stops), stops), 1):
            segments[row, start:stop], positions[row, start:stop] = number, np.arange(stop - start)
    packed = run(TOKEN_IDS, jnp.asarray(positions), segment_ids=jnp.asarray(segments)).x
    first = run(TOKEN_IDS[1:2, 4:6]).x
    assert holds(packed[0, 3:], run(TOKEN_IDS[:1, 3:]).x[0]) and holds(packed[1, 4:6], first[0])
    assert holds(packed[2], run(TOKEN_IDS).x[2])


def test_ragged_prompts_and_steps_equal_one_pass(run):
    """Rows get 2, 5 and 1 tokens at once, then single ones."""
    full, length = run(TOKEN_IDS).x, np.array([2, 5, 1])
    cache = run.cfg.init_cache(ROWS, TOKENS)
    out = run(TOKEN_IDS[:, :5], None, cache, valid=jnp.asarray(np.arange(5)[None] < length[:, None]))
    for row in range(ROWS):
        assert holds(out.x[row, : length[row]], full[row, : length[row]])
    for step in range(2):
        at = length + step
        out = run(TOKEN_IDS[np.arange(ROWS), at][:, None], jnp.asarray(at)[:, None], out.cache)
        assert holds(out.x[:, 0], full[np.arange(ROWS), at])


def test_padding_may_stand_beyond_a_learned_table():
    run, longer = Run(position=learned.Config(length=4)), jnp.pad(TOKEN_IDS[:, :4], ((0, 0), (0, 3)))
    out = run(longer, valid=jnp.broadcast_to(jnp.arange(7) < 4, (ROWS, 7))).x
    assert holds(out[:, :4], run(TOKEN_IDS[:, :4]).x)


def test_a_token_beyond_a_learned_table_leaves_its_row_not_a_number():
    tokens = TOKEN_IDS[:, :4]
    out = Run(position=learned.Config(length=4))(tokens, positions_of(tokens, jnp.asarray([0, 1, 0]))).x
    assert np.isfinite(out[np.array([0, 2])]).all() and np.isnan(out[1]).all()


def test_a_row_longer_than_a_learned_table_is_refused():
    run = Run(position=learned.Config(length=TOKENS))
    with pytest.raises(ValueError, match="length=8 must be at most 7, the positions that are learned"):
        run.model.apply({"params": run.params}, jnp.zeros((1, 8), jnp.int32))


def test_a_cache_longer_than_a_learned_table_is_refused():
    with pytest.raises(ValueError, match="length=8 must be at most 7, the positions that are learned"):
        _config(position=INPUT["offset"]).init_cache(2, 8)


def test_generation_goes_to_the_end_of_a_learned_table_and_not_beyond():
    run = Run(position=learned.Config(length=TOKENS))
    new = lambda count: decoding.generate(
        run.model, run.params, [[3, 1], [4, 1, 5]], decoding.Config(max_new_tokens=count), key=jax.random.key(0)
    )
    assert list(map(len, new(5))) == [5, 5]
    with pytest.raises(ValueError, match="max_new_tokens=6 must be at most 5: 7 positions are known"):
        new(6)


def test_a_prompt_longer_than_a_learned_table_is_refused():
    run = Run(position=learned.Config(length=TOKENS))
    with pytest.raises(ValueError, match="the longest prompt has 8 tokens: it must have at most 7"):
        decoding.generate(run.model, run.params, [[1] * 8], decoding.Config(max_new_tokens=1), key=jax.random.key(0))


@pytest.mark.parametrize("position", [rope.Config(), alibi.Config()], ids=["rope", "alibi"])
def test_a_scheme_that_acts_inside_attention_is_refused(position):
    with pytest.raises(ValueError, match="must act at input here; it acts at"):
        _config(position=position)


def test_parameters_around_the_layers():
    layer_norm = norm.Config(kind="layer", bias=True)
    run = Run(position=learned.Config(length=TOKENS), embedding_norm=True, norm=layer_norm)
    shapes = {path: leaf.shape for path, leaf in tree.paths(run.params).items() if "layers" not in path}
    assert shapes == {
        "embedding/table": (VOCAB, EMBED),
        "position/table": (TOKENS, EMBED),
        "embedding_norm/scale": (EMBED,),
        "embedding_norm/bias": (EMBED,),
        "norm/scale": (EMBED,),
        "norm/bias": (EMBED,),
    }


def test_a_norm_behind_the_embedding_hides_the_table_s_scale():
    run = Run(embedding_norm=True, tie_embeddings=False)
    before = run(TOKEN_IDS).x
    run.params["embedding"]["table"] *= 100
    assert holds(run(TOKEN_IDS).x, before, 1e-3)


def test_a_logit_scale_multiplies_the_logits():
    plain, scaled = Run(), Run(logit_scale=0.25)
    assert holds(scaled(TOKEN_IDS).x, 0.25 * plain(TOKEN_IDS).x, 1e-6)


def test_dropout_of_the_embedded_tokens_acts_in_training_only():
    run, key = Run(dropout=0.5), jax.random.key(0)
    noisy = run(TOKEN_IDS, key=key, deterministic=False).x
    assert holds(run(TOKEN_IDS, key=key).x, run(TOKEN_IDS).x, 0) and not holds(noisy, run(TOKEN_IDS).x, 1e-3)
