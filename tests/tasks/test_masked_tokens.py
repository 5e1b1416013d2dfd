"""Masked tokens: which models and tokenizers they suit, and what a batch weighs."""

import numpy as np
import pytest

from arch import config
from arch.data import tokenized
from arch.layers import stack
from arch.positions import learned
from arch.tasks import masked_tokens
from tests.train import tiny, tiny_tasks


def run(kind="pairs", **model):
    cfg = tiny_tasks.config("text", kind)
    return cfg.task, cfg.model.replace(**model)


def test_the_tiny_runs_suit():
    for kind in ("masked", "pairs"):
        task, model = run(kind)
        task.must_suit(model, seq_len=29)


@pytest.mark.parametrize("kind, wanted", [("masked", "'masked_lm' or 'unembedding'"), ("pairs", "'pretraining'")])
def test_a_head_of_another_task_is_named(kind, wanted):
    task, _ = run(kind)
    _, model = run({"masked": "pairs", "pairs": "masked"}[kind])
    with pytest.raises(ValueError, match=rf"model\.head\.name='\w+' must be {wanted} with task\.next_sentence="):
        task.must_suit(model, seq_len=29)


def test_pairs_want_two_types_of_tokens():
    task, model = run(token_types=3)
    with pytest.raises(ValueError, match="model.token_types=3 must be 2 with task.next_sentence=True"):
        task.must_suit(model, seq_len=29)


def test_a_model_that_does_not_reach_so_far_is_refused():
    task, model = run(position=learned.Config(length=28))
    with pytest.raises(ValueError, match=r"seq_len=29 must be at most 28, .* model\.position=.*length=28, offset=0"):
        task.must_suit(model, seq_len=29)


@pytest.mark.parametrize("kind", ["spans", "decoder"])
def test_another_model_is_named(kind):
    task, _ = run()
    model = (tiny_tasks.config("text", "spans") if kind == "spans" else tiny.config("text")).model
    with pytest.raises(ValueError, match="model.name='.*' must be 'encoder' with task.name='masked_tokens'"):
        task.must_suit(model, seq_len=29)


def data(text, folder, specials):
    words = tokenized.tokenizers.Config(specials=specials)
    return tokenized.prepare(tokenized.Config(path=str(text), piece_chars=97, tokenizer=words), folder / "data")


@pytest.mark.parametrize("missing", ["[MASK]", "[CLS]", "[SEP]"])
def test_a_special_token_that_the_tokenizer_lacks_is_named(missing, text, tmp_path):
    specials = tuple({"[MASK]", "[CLS]", "[SEP]"} - {missing})
    with pytest.raises(ValueError, match=rf"'\{missing[:-1]}\]' must be a special token of the tokenizer; there are"):
        masked_tokens.Config(next_sentence=True).samples(data(text, tmp_path, specials), "train", seq_len=29)


def test_special_tokens_are_not_masked_and_targets_are_the_text(text, tmp_path):
    made = data(text, tmp_path, tiny_tasks.SPECIALS)
    samples = masked_tokens.Config(next_sentence=True, rate=1.0).samples(made, "train", seq_len=29)
    for i in range(20):
        sample = samples[i]
        ordinary = sample["valid"] & (sample["targets"] < 256)
        assert np.array_equal(sample["weights"] > 0, ordinary) and ordinary.any()
        assert np.array_equal(sample["tokens"][~ordinary], sample["targets"][~ordinary])


def test_nothing_masked_is_refused():
    with pytest.raises(ValueError, match="rate=0.0 must be above 0"):
        masked_tokens.Config(rate=0.0)


@pytest.mark.parametrize("kind", ["masked", "pairs"])
@pytest.mark.parametrize(
    "mixer, rule",
    [
        (tiny.ATTENTION, "model.layers: attention.causal=True of layer 0 must be False with task.name='masked_tokens'"),
        (tiny.MAMBA, "model.layers must hold attention of causal=False with task.name='masked_tokens'"),
    ],
    ids=["attention", "mamba"],
)
def test_an_encoder_that_sees_one_side_is_refused(kind, mixer, rule):
    task, model = run(kind, layers=config.from_dict(stack.Config, dict(pattern=(dict(sublayers=(mixer,)),))))
    with pytest.raises(ValueError, match=rule):
        task.must_suit(model, seq_len=29)
