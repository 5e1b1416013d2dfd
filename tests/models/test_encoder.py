"""An encoder sees both ways, tells parts apart, and gives each row and each packed document what it would get alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.ffns import mlp
from arch.heads import classification, masked_lm, pooler
from arch.layers import block, norm, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import axes, unbox
from arch.mixers import attention, etc_attention
from arch.models import encoder
from arch.positions import learned, none
from arch.sharding.mesh import RULES
from arch.train.objective import objective
from tests.contracts.sublayers import holds, jit, random_like

ROWS, TOKENS, VOCAB, EMBED = 2, 7, 11, 6
NORM = norm.Config(kind="layer", bias=True)
LAYER = block.Config(
    sublayers=(
        attention.Config(num_heads=2, head_dim=3, causal=False, position=none.Config(), bias="all"),
        mlp.Config(hidden_dim=5, bias=True),
    ),
    norm=NORM,
    placement="post",
)
BERT = encoder.Config(
    vocab_size=VOCAB,
    embed_dim=EMBED,
    layers=stack.Config(pattern=(LAYER,), repeats=2),
    position=learned.Config(length=13),
    token_types=3,
    embedding_norm=True,
    norm=NORM,
    final_norm=False,
)
TOKENS_IN = jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=(ROWS, TOKENS)))


class Run:
    """An encoder with random weights, compiled once for each kind of context."""

    def __init__(self, cfg: encoder.Config = BERT):
        self.cfg, self.model = cfg, cfg.make()
        self.boxes = jax.eval_shape(self.model.init, jax.random.key(0), TOKENS_IN)["params"]
        self.params = random_like(unbox(self.boxes))
        self.call = jit(lambda params, tokens, context: self.model.apply({"params": params}, tokens, context))

    def __call__(self, tokens=TOKENS_IN, **fields):
        return self.call(self.params, tokens, Context(**{"positions": positions_of(tokens)} | fields))


@pytest.fixture(scope="module")
def run():
    return Run()


def test_a_token_sees_those_behind_it(run):
    other = TOKENS_IN.at[:, -1].add(1) % VOCAB
    assert not holds(run(other).x[:, 0], run().x[:, 0], 1e-3)


def test_padding_changes_nothing(run):
    valid = jnp.arange(TOKENS)[None] < jnp.asarray([4, TOKENS])[:, None]
    padded = run(jnp.where(valid, TOKENS_IN, 1), valid=valid).x
    assert holds(padded[0, :4], run(TOKENS_IN[:, :4]).x[0]) and holds(padded[1], run().x[1])


def test_packed_documents_equal_rows_of_their_own(run):
    first, second = TOKENS_IN[:1, :3], TOKENS_IN[:1, 3:]
    packed = run(
        TOKENS_IN[:1],
        positions=jnp.asarray([[0, 1, 2, 0, 1, 2, 3]]),
        segment_ids=jnp.asarray([[1, 1, 1, 2, 2, 2, 2]]),
    )
    assert holds(packed.x, jnp.concatenate([run(first).x, run(second).x], axis=1))


def test_token_types_are_told_apart(run):
    first, second = (run(token_types=jnp.full((ROWS, TOKENS), number)).x for number in (0, 2))
    assert holds(run().x, first, 0) and not holds(second, first, 1e-3)


def test_a_token_type_that_there_is_not_makes_its_row_not_a_number(run):
    x = run(token_types=jnp.zeros((ROWS, TOKENS), jnp.int32).at[0, 2].set(3)).x
    assert np.isnan(x[0]).all() and not np.isnan(x[1]).any()


def test_token_types_of_a_model_without_them_raise():
    run = Run(BERT.replace(token_types=0))
    with pytest.raises(ValueError, match="token_types must be None"):
        run(token_types=jnp.zeros((ROWS, TOKENS), jnp.int32))


def test_a_cache_raises(run):
    with pytest.raises(ValueError, match="cache must be None"):
        run.model.apply({"params": run.params}, TOKENS_IN, None, ())


def test_more_tokens_than_learned_positions_raise(run):
    with pytest.raises(ValueError, match="length=14 must be at most 13"):
        run.model.apply({"params": run.params}, jnp.zeros((1, 14), jnp.int32))


def test_the_head_reads_the_hidden_states(run):
    pooled = Run(BERT.replace(head=pooler.Config()))
    out, head = pooled(), pooled.params["head"]
    body = {name: value for name, value in pooled.params.items() if name != "head"}
    states = run.call(body, TOKENS_IN, Context(positions=positions_of(TOKENS_IN))).x
    assert holds(out.x, states)
    assert holds(out.shared["pooled"], np.tanh(states[:, 0] @ head["dense"] + head["dense_bias"]))


def test_scanned_equals_unrolled(run):
    context = Context(positions=positions_of(TOKENS_IN))
    assert holds(run.call(tree.unstack(run.params), TOKENS_IN, context).x, run().x)


def test_every_weight_names_its_axes(run):
    declared = tree.paths(axes(run.boxes))
    for path, leaf in tree.paths(unbox(run.boxes)).items():
        assert len(declared[path]) == leaf.ndim and set(declared[path]) <= RULES.keys()


def test_gradients_reach_every_weight():
    run = Run(BERT.replace(head=masked_lm.Config()))
    types = jnp.arange(TOKENS)[None] % 3 + jnp.zeros((ROWS, 1), jnp.int32)
    context = Context(positions=positions_of(TOKENS_IN), token_types=types)


    def objective(params):
        out = run.model.apply({"params": params}, TOKENS_IN, context)
        return jnp.mean(jax.nn.log_softmax(out.x)[..., 3])

    for path, gradient in tree.paths(jit(jax.grad(objective))(run.params)).items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), path


def test_dropout_acts_in_training_only():
    run = Run(BERT.replace(dropout=0.5, head=classification.Config(dropout=0.5)))
    key = jax.random.key(0)
    context = Context(positions=positions_of(TOKENS_IN), key=key, deterministic=False)
    noisy = run.call(run.params, TOKENS_IN, context).x
    assert holds(run().x, run(key=key).x, 0) and not holds(noisy, run().x, 1e-3)


def test_the_trainer_s_objective_takes_a_masked_token_encoder():
    run = Run(BERT.replace(head=masked_lm.Config()))
    ones = jnp.ones((ROWS, TOKENS), jnp.int32)
    batch = {"tokens": TOKENS_IN, "targets": TOKENS_IN, "segment_ids": ones, "weights": ones.astype(jnp.float32)}
    batch["positions"] = positions_of(TOKENS_IN)
    totals = {"tokens": float(ROWS * TOKENS)}
    loss = jit(lambda params: objective(run.model, params, batch, totals, None)[0])(run.params)
    assert 0 < loss < 2 * VOCAB


def test_the_embedding_is_the_only_vocabulary_table():
    run = Run(BERT.replace(head=masked_lm.Config()))
    sized = [path for path, leaf in tree.paths(unbox(run.boxes)).items() if VOCAB in leaf.shape]
    assert sized == ["embedding/table", "head/output_bias"]


# Global tokens

ETC = etc_attention.Config(num_heads=2, head_dim=3, num_globals=3, radius=1, max_distance=2)
GLOBAL = BERT.replace(
    layers=stack.Config(pattern=(LAYER.replace(sublayers=(ETC, mlp.Config(hidden_dim=5))),), repeats=2),
    position=none.Config(),
    token_types=0,
    global_tokens=3,
)


@pytest.fixture(scope="module")
def with_globals():
    return Run(GLOBAL)


@pytest.mark.slow
def test_global_tokens_stand_before_the_text_in_the_layers_alone(with_globals):
    run, body, given = with_globals, GLOBAL.layers.make(), dict(with_globals.params)
    text = run.params["embedding"]["table"][TOKENS_IN]
    text = NORM.make().apply({"params": given["embedding_norm"]}, text)
    rows = jnp.concatenate([jnp.broadcast_to(given["global_tokens"], (ROWS, 3, EMBED)), text], axis=1)
    places = jnp.broadcast_to(jnp.arange(TOKENS + 3), (ROWS, TOKENS + 3))
    states = jit(body.apply)({"params": given["layers"]}, rows, Context(positions=places))
    assert holds(run().x, states.x[:, 3:])


def test_the_ends_of_a_row_meet_in_its_global_tokens(with_globals):
    other = TOKENS_IN.at[:, -1].set((TOKENS_IN[:, -1] + 1) % VOCAB)
    assert not holds(with_globals(other).x[:, 0], with_globals().x[:, 0], 1e-3)  # two layers of neighbours do not reach


@pytest.mark.slow
def test_a_global_token_is_of_a_part_of_the_text(with_globals):
    parts = jnp.asarray([[0, 0, 1, 1, 2, 2, 9]] * ROWS)
    alike = with_globals(token_types=parts).x
    assert not holds(alike, with_globals(token_types=parts.at[:, 0].set(1)).x, 1e-3)
    assert holds(with_globals(token_types=jnp.full_like(parts, 9)).x, with_globals().x)


def test_global_tokens_and_packed_rows_are_refused_together(with_globals):
    with pytest.raises(ValueError, match="segment_ids must be None with global_tokens=3"):
        with_globals(segment_ids=jnp.ones((ROWS, TOKENS), jnp.int32))
