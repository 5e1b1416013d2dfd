"""Source to memory, target and memory to logits; padded, packed, cached, and generated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.decode import generate
from arch.ffns import mlp, moe
from arch.layers import block, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.mixers import attention, cross_attention
from arch.models import encoder_decoder
from arch.positions import relative
from tests.contracts.sublayers import holds, jit, random_like

ROWS, SOURCE, TARGET, PREFILL, VOCAB, EMBED = 2, 7, 5, 2, 11, 6


def layer(side: str, owner: bool, ffn=mlp.Config(hidden_dim=5)):
    position = relative.Config(buckets=4, max_distance=5, bidirectional=side == "encoder", owner=owner)
    mixer = attention.Config(num_heads=2, head_dim=3, causal=side == "decoder", position=position)
    cross = (cross_attention.Config(num_heads=2, head_dim=3),) if side == "decoder" else ()
    return block.Config(sublayers=(mixer, *cross, ffn))


def layers(side: str, ffn=mlp.Config(hidden_dim=5)):
    return stack.Config(prefix=(layer(side, True, ffn),), pattern=(layer(side, False, ffn),), repeats=2)


T5 = encoder_decoder.Config(
    vocab_size=VOCAB, embed_dim=EMBED, encoder=layers("encoder"), decoder=layers("decoder"), logit_scale=EMBED**-0.5
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=(ROWS, SOURCE + TARGET)))
IN, OUT = TOKENS[:, :SOURCE], TOKENS[:, SOURCE:]


def context(tokens, start=0, **fields):
    return Context(**{"positions": positions_of(tokens, start)} | fields)


class Run:
    """A model with random weights and its three functions."""

    def __init__(self, cfg: encoder_decoder.Config = T5):
        self.cfg, self.model = cfg, cfg.make()
        self.boxes = jax.eval_shape(self.model.init, jax.random.key(0), OUT)["params"]
        self.params = random_like(unbox(self.boxes))
        self.canonical = tree.unstack(self.params)
        self.pair, self.encode = jit(self._of("pair")), jit(self._of("encode"))
        self.call = jit(self._of("__call__"))

    def _of(self, method):
        return lambda params, *args: self.model.apply({"params": params}, *args, method=method)

    def full(self, source=IN, target=OUT, source_fields=(), **fields):
        """[b t v] logits."""
        source_context = context(source, **dict(source_fields))
        return self.pair(self.params, source, target, source_context, context(target, **fields)).x


@pytest.fixture(scope="module")
def run():
    return Run()


def test_a_pair_is_an_encoding_that_the_call_reads(run):
    memory = run.encode(run.params, IN)
    assert holds(run.call(run.params, OUT, context(OUT, memory=memory)).x, run.full())


def test_prefill_and_single_steps_equal_one_pass(run):
    memory, cache = run.encode(run.canonical, IN), run.cfg.init_cache(ROWS, TARGET)
    parts, start = [], 0
    for size in [PREFILL] + [1] * (TARGET - PREFILL):
        part = OUT[:, start : start + size]
        out = run.call(run.canonical, part, context(part, start, memory=memory), cache)
        parts, cache, start = [*parts, out.x], out.cache, start + size
    assert holds(jnp.concatenate(parts, axis=1), run.full())


def test_the_target_is_causal_and_reads_the_whole_source(run):
    later = run.full(target=OUT.at[:, 3].add(1) % VOCAB)
    assert holds(later[:, :3], run.full()[:, :3]) and not holds(later[:, 3], run.full()[:, 3], 1e-3)
    assert not holds(run.full(source=IN.at[:, -1].add(1) % VOCAB)[:, 0], run.full()[:, 0], 1e-3)


def test_padding_of_the_source_changes_nothing(run):
    valid = jnp.arange(SOURCE)[None] < jnp.asarray([4, SOURCE])[:, None]
    padded = run.full(source=jnp.where(valid, IN, 1), source_fields={"valid": valid})
    assert holds(padded[0], run.full(source=IN[:, :4])[0]) and holds(padded[1], run.full()[1])


def test_packed_pairs_equal_rows_of_their_own(run):
    packed = run.full(
        source=IN[:1],
        target=OUT[:1],
        source_fields={
            "positions": jnp.asarray([[0, 1, 2, 0, 1, 2, 0]]),
            "segment_ids": jnp.asarray([[1, 1, 1, 2, 2, 2, 0]]),
        },
        positions=jnp.asarray([[0, 1, 0, 1, 2]]),
        segment_ids=jnp.asarray([[1, 1, 2, 2, 2]]),
    )
    first, second = run.full(IN[:1, :3], OUT[:1, :2]), run.full(IN[:1, 3:6], OUT[:1, 2:])
    assert holds(packed, jnp.concatenate([first, second], axis=1))


def test_scanned_equals_unrolled(run):
    assert holds(run.pair(run.canonical, IN, OUT).x, run.full())


def test_each_stack_has_one_relative_table_in_its_first_layer(run):
    tables = [path for path in tree.paths(run.canonical) if path.endswith("relative")]
    assert tables == [f"{side}/layers/0/attention/relative" for side in ("decoder", "encoder")]


def test_gradients_reach_every_weight(run):
    def objective(params):
        return jnp.mean(jax.nn.log_softmax(run.model.apply({"params": params}, IN, OUT, method="pair").x)[..., 3])

    for path, gradient in tree.paths(jit(jax.grad(objective))(run.params)).items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), path


def test_without_a_memory_it_says_so(run):
    with pytest.raises(ValueError, match="memory=None"):
        run.call(run.params, OUT, context(OUT))


def test_an_untied_model_has_a_table_of_its_own_for_the_logits():
    boxes = jax.eval_shape(T5.replace(tie_embeddings=False).make().init, jax.random.key(0), OUT)["params"]
    sized = [path for path, leaf in tree.paths(unbox(boxes)).items() if VOCAB in leaf.shape]
    assert sized == ["embedding/output", "embedding/table"]


def test_generation_takes_the_likeliest_token_of_each_full_pass(run):
    memory, written = run.encode(run.params, IN), [[3], [3]]
    greedy = generate.Config(max_new_tokens=3, temperature=0.0)
    ids = generate.generate(run.model, run.params, written, greedy, key=jax.random.key(0), memory=memory)
    target = jnp.asarray([[3, *row[:-1]] for row in ids])
    assert np.argmax(run.full(target=target), axis=-1).tolist() == ids


def test_both_stacks_tell_the_trainer_and_move_their_buffers():
    ffn = moe.Config(num_experts=3, top_k=2, hidden_dim=5, bias_rate=0.5, balance_weight=0.1)
    run = Run(T5.replace(encoder=layers("encoder", ffn), decoder=layers("decoder", ffn)))
    aux = run.pair(run.params, IN, OUT).aux
    bias = {path: leaf for path, leaf in tree.paths(run.canonical).items() if path.endswith("router_bias")}
    after = tree.paths(run.cfg.update(tree.from_paths(bias), aux.stats))
    assert len(bias) == 6 and after.keys() == bias.keys()
    assert all(np.any(after[path] != bias[path]) for path in bias)
    assert {"encoder", "decoder"} == {name.split("/")[0] for name in aux.stats}


def test_dropout_acts_in_training_only():
    run, key = Run(T5.replace(dropout=0.5)), jax.random.key(0)
    noisy = run.full(key=key, deterministic=False)
    assert holds(run.full(key=key), run.full(), 0) and not holds(noisy, run.full(), 1e-3)
