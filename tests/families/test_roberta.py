"""RoBERTa: sizes, config.json both ways, rules for each head, and where its positions start."""

import pytest

from arch.families import bert, roberta
from arch.heads import classification, masked_lm, pooler, pretraining, span, tagging
from arch.layers import norm
from arch.published import Attributes, differences
from tests.families import fit

COUNTS = {
    "roberta_base": 124_645_632,
    "roberta_large": 355_359_744,
    "xlm_roberta_base": 278_043_648,
    "xlm_roberta_large": 559_890_432,
}
SIZES = dict(embed_dim=6, num_layers=2, num_heads=2, hidden_dim=5, vocab_size=11, length=7)
TOKENS = masked_lm.Config(norm=norm.Config(kind="layer", epsilon=1e-5, bias=True))
HEADS = {
    "RobertaModel": pooler.Config(),
    "RobertaForMaskedLM": TOKENS,
    "RobertaForSequenceClassification": classification.Config(num_labels=3, dropout=0.2),
    "RobertaForTokenClassification": tagging.Config(num_labels=4, dropout=0.2),
    "RobertaForQuestionAnswering": span.Config(),
}
XLM = {
    "architectures": ["XLMRobertaForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "xlm-roberta",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "output_past": True,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "transformers_version": "4.17.0.dev0",
    "type_vocab_size": 1,
    "use_cache": True,
    "vocab_size": 250002,
}
"""The config.json of the released xlm-roberta-base."""


@pytest.fixture(params=HEADS)
def tiny(request):
    return roberta.compose(**SIZES, head=HEADS[request.param])


def test_every_preset_is_counted():
    assert roberta.PRESETS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(roberta.PRESETS[name]).values()) == COUNTS[name]


def test_the_paths_are_bert_s():
    ours, theirs = roberta.compose(**SIZES), bert.compose(**SIZES)
    assert fit.shapes(ours).keys() == fit.shapes(theirs).keys()


def test_the_rules_name_each_weight_once_and_are_undone_by_saving(tiny):
    assert fit.misfits(roberta, tiny) == []


def test_reading_what_was_written_gives_the_config_back(tiny):
    assert roberta.read(Attributes(roberta.write(tiny))) == tiny


@pytest.mark.parametrize("architecture", HEADS)
def test_the_architecture_names_the_head(architecture):
    written = roberta.write(roberta.compose(**SIZES, head=HEADS[architecture]))
    assert written["architectures"] == [architecture]


def test_a_published_config_json_reads_as_its_preset():
    assert roberta.read(Attributes(XLM)) == roberta.PRESETS["xlm_roberta_base"].replace(head=TOKENS)


def test_two_rows_of_the_table_are_no_positions():
    assert roberta.PRESETS["roberta_base"].position.max_length == 512


def test_its_masked_token_head_keeps_gelu_whatever_the_layers_have():
    cfg = roberta.read(Attributes(XLM | {"hidden_act": "relu"}))
    assert (cfg.head.activation, cfg.layers.pattern[0].sublayers[1].activation) == ("gelu", "relu")


def test_an_unused_pooler_is_ignored_where_the_head_has_none():
    whole, cfg = roberta.compose(**SIZES), roberta.compose(**SIZES, head=TOKENS)
    names = fit.theirs(roberta, whole) | fit.theirs(roberta, cfg) | {"lm_head.decoder.weight"}
    assert differences(roberta.rules(cfg), fit.shapes(cfg), names, fit.optional(roberta, cfg)) == []


def test_bert_and_roberta_do_not_write_each_other_s_models():
    with pytest.raises(ValueError, match="position.offset=2 must be 0"):
        bert.write(roberta.compose(**SIZES))
    with pytest.raises(ValueError, match="position.offset=0 must be 2"):
        roberta.write(bert.compose(**SIZES))


def test_it_has_no_head_for_two_tasks():
    with pytest.raises(ValueError, match="head='pretraining' must be one of pooler, masked_lm, "):
        roberta.write(roberta.compose(**SIZES, head=pretraining.Config()))


def test_another_id_of_padding_raises():
    with pytest.raises(ValueError, match="pad_token_id=0 must be 1"):
        roberta.read(Attributes(XLM | {"pad_token_id": 0}))
