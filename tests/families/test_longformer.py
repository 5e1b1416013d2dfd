"""Longformer is what its config.json says, with the published number of parameters."""

import pytest

from arch.families import longformer, roberta
from arch.heads import classification, masked_lm, pretraining
from arch.layers import norm
from arch.published import Attributes
from tests.families import fit

COUNTS = {"longformer_base": 148_659_456, "longformer_large": 434_600_960}
NORM = norm.Config(kind="layer", epsilon=1e-5, bias=True)
SIZES = dict(vocab_size=53, embed_dim=12, num_layers=3, num_heads=3, hidden_dim=7, length=31)
BASE = {
    "model_type": "longformer",
    "attention_mode": "longformer",
    "ignore_attention_mask": False,
    "attention_window": [512] * 12,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4098,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "sep_token_id": 2,
    "type_vocab_size": 1,
    "vocab_size": 50265,
}
"""The config.json of the released longformer-base-4096."""


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert longformer.PRESETS.keys() == COUNTS.keys()
    assert sum(leaf.size for leaf in fit.shapes(longformer.PRESETS[name]).values()) == COUNTS[name]


def test_the_released_config_is_the_preset():
    assert longformer.read(Attributes(BASE)) == longformer.PRESETS["longformer_base"]


HEADS = {"tokens": masked_lm.Config(norm=NORM), "class": classification.Config(num_labels=3)}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_reading_what_was_written_gives_it_back(head):
    made = longformer.compose(**SIZES, windows=(2, 4, 6), head=head)
    tiny = longformer.read(Attributes(longformer.write(made)))
    assert [layer.sublayers[0].window for layer in tiny.layers.blocks] == [2, 4, 6]
    assert fit.misfits(longformer, tiny) == []
    assert longformer.read(Attributes(longformer.write(tiny))) == tiny


def test_the_first_token_is_global_where_a_text_has_a_class():
    mixer = longformer.compose(**SIZES, head=classification.Config(num_labels=3)).layers.blocks[0].sublayers[0]
    assert mixer.globals == (0,)


def test_windows_that_are_not_as_many_as_the_layers_are_refused():
    with pytest.raises(ValueError, match=r"windows=\(2, 4\) must be one for each of num_layers=3"):
        longformer.compose(**SIZES, windows=(2, 4))


def test_it_does_not_write_roberta_nor_roberta_it():
    with pytest.raises(ValueError, match="must be"):
        longformer.write(roberta.compose(**SIZES))
    with pytest.raises(ValueError, match="must be"):
        roberta.write(longformer.compose(**SIZES))


def test_a_head_that_the_family_has_not_is_refused():
    with pytest.raises(ValueError, match="head='pretraining' must be one of"):
        longformer.write(longformer.compose(**SIZES, head=pretraining.Config()))
