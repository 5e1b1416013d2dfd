"""Span corruption: which models and tokenizers it suits, and what a sample is."""

import numpy as np
import pytest

from arch.data import tokenized
from arch.positions import learned
from arch.tasks import span_corruption
from tests.train import tiny, tiny_tasks

TASK = span_corruption.Config(num_sentinels=3)


@pytest.fixture(scope="module")
def data(text, tmp_path_factory):
    words = tokenized.tokenizers.Config(specials=tiny_tasks.SPECIALS)
    cfg = tokenized.Config(path=str(text), piece_chars=97, tokenizer=words)
    return tokenized.prepare(cfg, tmp_path_factory.mktemp("run") / "data")


def test_a_decoder_is_refused_by_name():
    with pytest.raises(ValueError, match="model.name='decoder' must be 'encoder_decoder' with task.name='span_corr"):
        TASK.must_suit(tiny.config("text").model, seq_len=29)


def test_an_encoder_decoder_suits_as_far_as_its_positions_reach():
    model = tiny_tasks.config("text", "spans").model
    TASK.must_suit(model, seq_len=29)
    with pytest.raises(ValueError, match="seq_len=29 must be at most 28"):
        TASK.must_suit(model.replace(position=learned.Config(length=28)), seq_len=29)


def test_a_sample_is_a_window_with_its_spans_cut_out(data):
    sample = TASK.samples(data, "train", seq_len=29)[7]
    sentinels = [data.tokenizer.special(f"<extra_id_{i}>") for i in range(3)]
    source, targets = (sample[name].tolist() for name in ("source", "targets"))
    assert len(source) == 29 and sample["source_valid"].all() and sample["valid"].all()
    assert source[-1] == targets[-1] == data.tokenizer.separator and targets[0] == sentinels[0]
    assert [t for t in source if t in sentinels] == [t for t in targets if t in sentinels] != []
    assert sample["tokens"].tolist() == [data.tokenizer.separator, *targets[:-1]]
    assert sample["weights"].tolist() == [1.0] * len(targets)


def test_start_and_end_are_the_tokens_that_are_named(data):
    named = TASK.replace(start="[CLS]", end="[SEP]").samples(data, "train", seq_len=29)[7]
    assert named["tokens"][0] == data.tokenizer.special("[CLS]")
    assert named["source"][-1] == named["targets"][-1] == data.tokenizer.special("[SEP]")


def test_the_end_of_a_validation_split_is_padded(data):
    samples = TASK.samples(data, "valid", seq_len=29)
    last = samples[samples.samples_per_epoch - 1]
    count = int(last["weights"].sum())
    assert 0 < count < len(last["weights"]) and not last["source_valid"].all()
    assert np.array_equal(last["weights"] > 0, np.arange(len(last["weights"])) < count)
    assert np.array_equal(last["valid"], last["weights"] > 0)


def test_a_sentinel_that_the_tokenizer_lacks_is_named(data):
    with pytest.raises(ValueError, match="'<extra_id_3>' must be a special token of the tokenizer"):
        span_corruption.Config(num_sentinels=4).samples(data, "train", seq_len=29)


def test_rows_with_more_spans_than_sentinels_are_refused():
    model = tiny_tasks.config("text", "spans").model
    with pytest.raises(ValueError, match="num_sentinels=3 must be at least 4, the spans of"):
        TASK.must_suit(model, seq_len=80)


def test_a_sentinel_without_a_place_for_its_number_is_refused():
    with pytest.raises(ValueError, match="sentinel='<x>' must have a {} in the place of its number"):
        span_corruption.Config(sentinel="<x>")


def test_an_encoder_that_looks_back_alone_and_a_decoder_that_looks_ahead_are_refused():
    model = tiny_tasks.config("text", "spans").model
    with pytest.raises(ValueError, match="model.encoder: attention.causal=True of layer 0 must be False with task"):
        TASK.must_suit(model.replace(encoder=model.decoder), seq_len=29)
    with pytest.raises(ValueError, match="model.decoder: attention.causal=False of layer 0 must be True with task"):
        TASK.must_suit(model.replace(decoder=model.encoder), seq_len=29)
