"""BigBird is what its config.json says, and what it cannot say is refused."""

import pytest

from arch.families import bert, bigbird
from arch.heads import classification, masked_lm, pooler, pretraining, tagging
from arch.layers import norm
from arch.published import Attributes, differences
from arch.weights import family
from tests.families import fit

COUNTS = {"bigbird_base": 127_468_800, "bigbird_large": 359_123_968}
"""Those of transformers' BigBirdModel of these sizes."""
NORM = norm.Config(kind="layer", epsilon=1e-12, bias=True)
TOKENS = masked_lm.Config(activation="gelu_tanh", norm=NORM)
SIZES = dict(vocab_size=53, embed_dim=12, num_layers=3, num_heads=3, hidden_dim=7, length=31)
HEADS = {
    "Model": pooler.Config(),
    "ForPreTraining": pretraining.Config(tokens=TOKENS),
    "ForMaskedLM": TOKENS,
    "ForSequenceClassification": classification.Config(num_labels=3, dropout=0.2, activation="gelu_tanh"),
    "ForTokenClassification": tagging.Config(num_labels=4, dropout=0.2),
}
BASE = {
    "architectures": ["BigBirdForPreTraining"],
    "attention_probs_dropout_prob": 0.1,
    "attention_type": "block_sparse",
    "block_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "gradient_checkpointing": False,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 4096,
    "model_type": "big_bird",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "num_random_blocks": 3,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "rescale_embeddings": False,
    "sep_token_id": 66,
    "type_vocab_size": 2,
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 50358,
}
"""The config.json of the released bigbird-roberta-base."""


def tiny(**changes):
    return bigbird.compose(**SIZES | dict(evaluation="first") | changes)


def mixers(config):
    return [layer.sublayers[0] for layer in config.layers.blocks]


def as_drawn(config):
    """The same, the random blocks met outside training too."""
    layers = tuple(
        layer.replace(sublayers=(layer.sublayers[0].replace(evaluation="drawn"), layer.sublayers[1]))
        for layer in config.layers.blocks
    )
    return config.replace(layers=config.layers.replace(pattern=layers))


def test_the_released_config_is_the_preset_but_for_its_head_and_for_what_transformers_evaluates():
    found = bigbird.read(Attributes(BASE))
    assert {mixer.evaluation for mixer in mixers(found)} == {"first"}
    assert as_drawn(found) == bigbird.PRESETS["bigbird_base"].replace(head=HEADS["ForPreTraining"])


@pytest.mark.parametrize("name", ["bigbird_base", pytest.param("bigbird_large", marks=pytest.mark.slow)])
def test_a_preset_has_transformers_number_of_parameters(name):
    assert bigbird.PRESETS.keys() == COUNTS.keys()
    assert sum(leaf.size for leaf in fit.shapes(bigbird.PRESETS[name]).values()) == COUNTS[name]


def test_what_a_config_leaves_unsaid_is_as_in_transformers_class():
    said = ("architectures", "model_type", "vocab_size")
    assert bigbird.read(Attributes({name: BASE[name] for name in said})) == bigbird.read(Attributes(BASE))


def test_each_layer_draws_with_its_number():
    assert [mixer.seed for mixer in mixers(tiny())] == [0, 1, 2]


@pytest.mark.parametrize("blocks", ["sparse", "full"])
@pytest.mark.parametrize("name", HEADS)
def test_reading_what_was_written_gives_it_back_and_the_rules_fit(name, blocks):
    made = tiny(head=HEADS[name], blocks=blocks, attention_dropout=0.0)
    written = bigbird.write(made)
    assert written["architectures"] == [f"BigBird{name}"]
    assert bigbird.read(Attributes(written)) == made
    assert fit.misfits(bigbird, made) == []


def test_sizes_of_blocks_and_a_scale_of_embeddings_are_kept():
    made = tiny(block_size=5, random=1, scaled_embedding=True, activation="relu", attention_dropout=0.0)
    written = bigbird.write(made)
    assert bigbird.read(Attributes(written)) == made
    expected = {"block_size": 5, "num_random_blocks": 1, "rescale_embeddings": True, "hidden_act": "relu"}
    assert {name: written[name] for name in expected} == expected


def test_the_pooler_of_a_file_is_ignored_where_the_head_has_none():
    whole, cfg = tiny(), tiny(head=TOKENS)
    names = fit.theirs(bigbird, whole) | fit.theirs(bigbird, cfg) | {"cls.predictions.decoder.weight"}
    assert differences(bigbird.rules(cfg), fit.shapes(cfg), names, fit.optional(bigbird, cfg)) == []


def test_a_model_that_meets_its_random_blocks_outside_training_is_not_written():
    with pytest.raises(ValueError, match="evaluation='drawn' must be 'first' in this family"):
        bigbird.write(tiny(evaluation="drawn"))


REFUSED = {
    "use_bias=False must be True": {"use_bias": False},
    "attention_type='sparse' must be one of block_sparse, original_full": {"attention_type": "sparse"},
    "is_decoder=True must be False": {"is_decoder": True},
    "architectures='BigBirdForQuestionAnswering' must be one of": {"architectures": ["BigBirdForQuestionAnswering"]},
    "num_global_blocks=2 is not handled": {"num_global_blocks": 2},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_config_expresses_is_refused(message):
    with pytest.raises(ValueError, match=message):
        bigbird.read(Attributes(BASE | REFUSED[message]))


def test_another_order_of_seeds_is_refused():
    made = tiny()
    pattern = made.layers.pattern[::-1]
    with pytest.raises(ValueError, match=r"layers\[0\].sublayers\[0\].seed=2 must be 0 in this family"):
        bigbird.write(made.replace(layers=made.layers.replace(pattern=pattern)))


def test_without_blocks_it_is_a_bert_and_is_written_as_one():
    assert bigbird.compose(**SIZES, blocks="full") == bert.compose(**SIZES, activation="gelu_tanh")
    module, _ = family.writing(tiny(blocks="full"))
    assert module is bert


def test_with_blocks_only_this_family_writes_it():
    module, _ = family.writing(tiny())
    assert module is bigbird


def test_a_classifier_has_the_activation_of_the_layers_and_bert_s_tanh():
    with pytest.raises(ValueError, match="head.activation='tanh' must be 'gelu_tanh' in this family"):
        bigbird.write(tiny(head=classification.Config()))
    with pytest.raises(ValueError, match="head.activation='relu' must be 'tanh' in this family"):
        bert.write(bert.compose(**SIZES, head=classification.Config(activation="relu")))
