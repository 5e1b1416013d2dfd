"""Generation continues each prompt as the full pass would, alone or in a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.decode import generate as decoding
from arch.layers import block, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.models import decoder
from tests.contracts.sublayers import FFNS, MIXERS, memory, random_like

VOCAB, EMBED, NEW = 17, 7, 5
PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]
ATTENTION = MIXERS["attention_0"]
GREEDY = decoding.Config(max_new_tokens=NEW, temperature=0.0)
WITH_CACHE = {name: cfg for name, cfg in (MIXERS | FFNS).items() if not {"cache", "causal"} & set(cfg.lacks())}
KEY = jax.random.key(0)


@functools.cache
def model_of(*sublayers, repeats=1):
    """A decoder around these sublayers with random parameters, in canonical form."""
    layers = stack.Config(pattern=(block.Config(sublayers=sublayers),), repeats=repeats)
    model = decoder.Config(vocab_size=VOCAB, embed_dim=EMBED, layers=layers).make()
    tokens = jnp.zeros((len(PROMPTS), 2), jnp.int32)
    context = Context(positions=positions_of(tokens), memory=memory(len(PROMPTS)))
    shapes = jax.eval_shape(lambda: unbox(model.init(KEY, tokens, context)["params"]))
    return model, tree.unstack(random_like(shapes))


def by_full_passes(model, params, prompts, memory=None):
    """NEW greedy tokens a prompt, each from a whole pass over all tokens so far."""
    width = max(map(len, prompts)) + NEW
    rows = [list(prompt) for prompt in prompts]

    @jax.jit
    def logits(tokens, valid):
        context = Context(positions=positions_of(tokens), valid=valid, memory=memory)
        return model.apply({"params": params}, tokens, context).x

    for _ in range(NEW):
        tokens, valid = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], valid[i, : len(row)] = row, True
        out = logits(tokens, valid)
        for i, row in enumerate(rows):
            row.append(int(np.argmax(out[i, len(row) - 1])))
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts)]


@pytest.mark.parametrize("name", WITH_CACHE)
def test_greedy_tokens_are_those_of_full_passes(name):
    cfg = WITH_CACHE[name]
    sublayers = (cfg,) if name in MIXERS else (ATTENTION, cfg)
    model, params = model_of(*sublayers)
    read = memory(len(PROMPTS)) if "cross" in name else None
    actual = decoding.generate(model, params, PROMPTS, GREEDY, key=KEY, memory=read)
    assert actual == by_full_passes(model, params, PROMPTS, read)


@pytest.fixture(scope="module")
def hybrid():
    """Two layers, each of Mamba, attention and a mixture of experts."""
    return model_of(MIXERS["mamba_0"], ATTENTION, FFNS["moe_0"], repeats=2)


@pytest.fixture(scope="module")
def together(hybrid):
    """What the hybrid makes of all prompts in one batch."""
    return decoding.generate(*hybrid, PROMPTS, GREEDY, key=KEY)


def test_a_hybrid_s_tokens_are_those_of_full_passes(hybrid, together):
    assert together == by_full_passes(*hybrid, PROMPTS)


def test_a_batch_of_ragged_prompts_equals_each_prompt_alone(hybrid, together):
    assert together == [decoding.generate(*hybrid, [prompt], GREEDY, key=KEY)[0] for prompt in PROMPTS]


def test_scanned_parameters_give_the_same(hybrid, together):
    model, params = hybrid
    shapes = jax.eval_shape(lambda: unbox(model.init(KEY, jnp.zeros((1, 2), jnp.int32))["params"]))
    assert decoding.generate(model, tree.stack(params, shapes), PROMPTS, GREEDY, key=KEY) == together


def test_the_second_call_compiles_nothing(hybrid, together):
    before = decoding.continued._cache_size()
    decoding.generate(*hybrid, [[7, 7], [1, 2, 3, 4], [0]], GREEDY, key=jax.random.key(1))
    assert decoding.continued._cache_size() == before


@pytest.fixture(scope="module")
def plain():
    """Attention alone: fast to compile."""
    return model_of(ATTENTION)


def first_tokens(model, params, prompt, **how):
    """The first new token of 64 rows with the same prompt."""
    cfg = decoding.Config(**{"max_new_tokens": 1, "temperature": 1.0} | how)
    return {row[0] for row in decoding.generate(model, params, [prompt] * 64, cfg, key=KEY)}


def probabilities(model, params, prompt):
    """Of the token behind the prompt."""
    return np.asarray(jax.nn.softmax(model.apply({"params": params}, jnp.asarray([prompt])).x[0, -1]))


def test_top_k_takes_only_the_k_likeliest(plain):
    likeliest = np.argsort(probabilities(*plain, PROMPTS[0]))[::-1]
    assert first_tokens(*plain, PROMPTS[0], top_k=3) == set(likeliest[:3].tolist())


def test_top_p_takes_only_the_likeliest_that_make_up_the_share(plain):
    values = probabilities(*plain, PROMPTS[0])
    order = np.argsort(values)[::-1]
    share = float(values[order[:2]].sum() - values[order[1]] / 2)  # reached within the second
    assert first_tokens(*plain, PROMPTS[0], top_p=share) == set(order[:2].tolist())


def test_a_high_temperature_reaches_more_tokens_than_a_low_one(plain):
    hot, cold = (first_tokens(*plain, PROMPTS[0], temperature=value) for value in (50.0, 0.3))
    assert len(hot) > len(cold)


def test_a_stop_token_ends_its_row_alone(plain):
    rows = decoding.generate(*plain, PROMPTS, GREEDY, key=KEY)
    stop = rows[0][2]
    cut = [row[: row.index(stop)] if stop in row else row for row in rows]
    assert decoding.generate(*plain, PROMPTS, GREEDY, key=KEY, stop=stop) == cut
    assert len(cut[0]) <= 2 and any(len(row) == NEW for row in cut)


def test_any_of_several_stop_tokens_ends_a_row(plain):
    rows = decoding.generate(*plain, PROMPTS, GREEDY, key=KEY)
    stop = (rows[0][2], rows[1][1])
    cut = [row[: next((i for i, token in enumerate(row) if token in stop), NEW)] for row in rows]
    assert decoding.generate(*plain, PROMPTS, GREEDY, key=KEY, stop=stop) == cut
    assert len(cut[0]) <= 2 and len(cut[1]) <= 1


def test_the_key_decides_the_sample(plain):
    cfg = decoding.Config(max_new_tokens=NEW, temperature=2.0)
    draw = lambda seed: decoding.generate(*plain, PROMPTS, cfg, key=jax.random.key(seed))
    assert draw(1) == draw(1) != draw(2)


def test_an_empty_prompt_is_refused(plain):
    with pytest.raises(ValueError, match=r"prompts\[1\]=\[\] must hold at least one token"):
        decoding.generate(*plain, [[1], []], GREEDY, key=KEY)


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_an_id_that_the_model_does_not_know_is_refused(plain, token):
    with pytest.raises(ValueError, match=r"prompts\[0\] holds ids outside 0 ... vocab_size - 1 = 16"):
        decoding.generate(*plain, [[token]], GREEDY, key=KEY)
