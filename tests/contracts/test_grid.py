"""Any mixer with any ffn in any block: placements, norms and rematerialisation through a decoder of two layers.

`make test` runs a set of cases that has each mixer's and each ffn's file, and covers all pairs of a placement, a norm
and a policy. `make test-all` also covers all pairs in which each example is a choice of its own, and runs every
combination of a mixer's file, an ffn's file and a placement, with examples, norms and policies taken in turn: all
combinations of those would be thousands of compilations and prove little more.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.layers import block, norm, stack
from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.models import decoder
from tests.contracts.pairwise import pairs, pairwise
from tests.contracts.sublayers import FFNS, MIXERS, files, holds, jit, memory, random_like

NORMS = {
    "rms": norm.Config(),
    "layer": norm.Config(kind="layer"),
    "layer_bias": norm.Config(kind="layer", bias=True),
}
PLACEMENTS = ("pre", "post", "sandwich", "parallel", "parallel_norms")
REMAT = ("none", "dots", "full")
FACTORS = (tuple(MIXERS), tuple(FFNS), PLACEMENTS, tuple(NORMS), REMAT)
SIZES = [len(values) for values in FACTORS]
ROWS, TOKENS, VOCAB, EMBED = 2, 5, 11, 12


def _named(cases):
    return [tuple(FACTORS[factor][value] for factor, value in enumerate(case)) for case in cases]


def _file(example: str) -> str:
    return example.rsplit("_", 1)[0]


def _in_turn() -> list[tuple]:
    """Each combination of a mixer's file, an ffn's file and a placement once, with the other choices taken in turn.

    One of them changes when those before it have all been taken, so that they meet.
    """
    cases = []
    for number, (mixer, ffn, placement) in enumerate(itertools.product(files("mixers"), files("ffns"), PLACEMENTS)):
        mixers = [example for example in MIXERS if _file(example) == mixer]
        ffns = [example for example in FFNS if _file(example) == ffn]
        taken = []
        for choices in (mixers, ffns, tuple(NORMS), REMAT):
            taken.append(choices[number % len(choices)])
            number //= len(choices)
        cases.append((*taken[:2], placement, *taken[2:]))
    return cases


def _few(cases: list[tuple]) -> list[tuple]:
    """Some of the cases that have all files and cover all pairs of other choices: greedily chosen."""
    covers = {case: _met(case) for case in cases}
    left, kept = set().union(*covers.values()), []
    while left:
        kept.append(max(cases, key=lambda case: len(covers[case] & left)))
        left -= covers[kept[-1]]
    return kept


def _met(case: tuple) -> set[tuple]:
    """The files, and the pairs of other choices, of a case."""
    return {*map(_file, case[:2])} | pairs(case[2:])


PAIRWISE = _named(pairwise(SIZES))
IN_TURN = _in_turn()
OF_FILES = _few(PAIRWISE + IN_TURN)
OTHERS = sorted({*PAIRWISE, *IN_TURN} - set(OF_FILES))


def _decoder(mixer: str, ffn: str, placement: str, norm_kind: str, remat: str) -> decoder.Config:
    layer = block.Config(sublayers=(MIXERS[mixer], FFNS[ffn]), norm=NORMS[norm_kind], placement=placement)
    layers = stack.Config(pattern=(layer,), repeats=2, remat=remat)
    return decoder.Config(vocab_size=VOCAB, embed_dim=EMBED, layers=layers, norm=NORMS[norm_kind])


def _context(tokens, start=0) -> Context:
    positions = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    return Context(jnp.broadcast_to(positions, tokens.shape), memory=memory(tokens.shape[0]))


def _run(cfg: decoder.Config, lacks: set[str]):
    """One compiled call: (logits of the scanned form, logits of the unrolled form, gradients).

    The unrolled form runs by single steps where there are caches, so that it proves decoding too. Gradients are taken
    where a rematerialisation policy changes how; the plain ones are in test_numerics.
    """
    model = cfg.make()
    tokens = jnp.asarray(np.random.default_rng(0).integers(VOCAB, size=(ROWS, TOKENS)))
    boxes = jax.eval_shape(model.init, jax.random.key(0), tokens, _context(tokens))["params"]

    def objective(params):
        out = model.apply({"params": params}, tokens, _context(tokens))
        nats = -jnp.mean(jax.nn.log_softmax(out.x)[..., 3])
        return nats + sum(out.aux.losses.values(), start=0.0), out.x

    def by_steps(params):
        def step(carry, token):
            cache, start = carry
            out = model.apply({"params": params}, token[:, None], _context(token[:, None], start), cache)
            return (out.cache, start + 1), out.x[:, 0]

        return jax.lax.scan(step, (cfg.init_cache(ROWS, TOKENS), 0), tokens.T)[1].swapaxes(0, 1)

    @jit
    def run(params):
        if cfg.layers.remat == "none":
            gradient, scanned = {}, objective(params)[1]
        else:
            gradient, scanned = jax.grad(objective, has_aux=True)(params)
        layers = tree.unstack(params)
        return scanned, objective(layers)[1] if "cache" in lacks else by_steps(layers), gradient

    return run(random_like(unbox(boxes)))


def _hold(*choice):
    cfg = _decoder(*choice)
    lacks = {lack for sublayer in cfg.layers.pattern[0].sublayers for lack in sublayer.lacks()}
    scanned, unrolled, gradient = _run(cfg, lacks)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((scanned, gradient)))
    assert holds(unrolled, scanned, 1e-4)


@pytest.mark.parametrize("choice", OF_FILES, ids="-".join)
def test_any_pair_of_choices_works_together(choice):
    _hold(*choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", OTHERS, ids="-".join)
def test_all_choices_work_together(choice):
    _hold(*choice)


def test_the_pairwise_cases_cover_all_pairs():
    every = functools.reduce(set.union, map(pairs, itertools.product(*map(range, SIZES))))
    assert functools.reduce(set.union, map(pairs, pairwise(SIZES))) == every


def test_the_fast_cases_have_all_files_and_cover_all_pairs_of_other_choices():
    choices = set.union(*map(pairs, itertools.product(*FACTORS[2:])))
    assert set.union(*map(_met, OF_FILES)) == {*files("mixers"), *files("ffns")} | choices


def test_the_cases_are_few():
    assert len(PAIRWISE) < 1.5 * len(MIXERS) * len(FFNS)
    assert len(OF_FILES) < 1.5 * len(files("mixers"))


def test_the_cases_in_turn_are_all_combinations_of_files_and_placements():
    found = [(_file(mixer), _file(ffn), placement) for mixer, ffn, placement, *_ in IN_TURN]
    assert sorted(found) == sorted(itertools.product(files("mixers"), files("ffns"), PLACEMENTS))
    assert {rest for *_, norm, remat in IN_TURN for rest in (norm, remat)} == {*NORMS, *REMAT}
