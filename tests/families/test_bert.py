"""BERT: sizes, paths, config.json both ways, rules for each head, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from arch import tree
from arch.families import bert
from arch.ffns import mlp
from arch.heads import classification, hidden_states, masked_lm, pooler, pretraining, span, tagging
from arch.layers import norm, stack
from arch.models import decoder
from arch.positions import sinusoidal
from arch.published import Attributes, differences
from arch.weights import pretrained
from tests.families import fit

COUNTS = {"bert_base": 109_482_240, "bert_large": 335_141_888, "minilm_l6": 22_713_216}
NORM = norm.Config(kind="layer", epsilon=1e-3, bias=True)
SIZES = dict(embed_dim=6, num_layers=2, num_heads=2, hidden_dim=5, vocab_size=11, length=7, token_types=3, epsilon=1e-3)
TOKENS = masked_lm.Config(norm=NORM)
HEADS = {
    "BertModel": pooler.Config(),
    "BertForPreTraining": pretraining.Config(tokens=TOKENS),
    "BertForMaskedLM": TOKENS,
    "BertForSequenceClassification": classification.Config(num_labels=3, dropout=0.2),
    "BertForTokenClassification": tagging.Config(num_labels=4, dropout=0.2),
    "BertForQuestionAnswering": span.Config(),
}
LAYER = """attention/query attention/query_bias attention/key attention/key_bias attention/value attention/value_bias
    attention/out attention/out_bias attention_norm/scale attention_norm/bias mlp/up mlp/up_bias mlp/down mlp/down_bias
    mlp_norm/scale mlp_norm/bias"""
AROUND = """embedding/table position/table token_types embedding_norm/scale embedding_norm/bias
    head/dense head/dense_bias"""
MINILM = {
    "_name_or_path": "old_models/all-MiniLM-L6-v2/0_Transformer",
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.8.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
"""The config.json of the released all-MiniLM-L6-v2."""


@pytest.fixture(params=HEADS)
def tiny(request):
    return bert.compose(**SIZES, head=HEADS[request.param])


def test_every_preset_is_counted():
    assert bert.PRESETS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(bert.PRESETS[name]).values()) == COUNTS[name]


def test_a_model_s_paths_are_those_of_the_contract():
    expected = AROUND.split() + [f"layers/{i}/{path}" for i in range(2) for path in LAYER.split()]
    assert sorted(fit.shapes(bert.compose(**SIZES))) == sorted(expected)


def test_the_rules_name_each_weight_once_and_are_undone_by_saving(tiny):
    assert fit.misfits(bert, tiny) == []


def test_reading_what_was_written_gives_the_config_back(tiny):
    assert bert.read(Attributes(bert.write(tiny))) == tiny


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_is_read_back_as_it_was_written(name):
    assert bert.read(Attributes(bert.write(bert.PRESETS[name]))) == bert.PRESETS[name]


@pytest.mark.parametrize("architecture", HEADS)
def test_the_architecture_names_the_head(architecture):
    written = bert.write(bert.compose(**SIZES, head=HEADS[architecture]))
    assert written["architectures"] == [architecture]


def test_a_published_config_json_reads_as_its_preset():
    assert bert.read(Attributes(MINILM)) == bert.PRESETS["minilm_l6"]


def test_the_head_s_activation_follows_the_layers():
    cfg = bert.read(Attributes(MINILM | {"architectures": ["BertForMaskedLM"], "hidden_act": "gelu_new"}))
    assert cfg.head.activation == cfg.layers.pattern[0].sublayers[1].activation == "gelu_tanh"


def test_a_file_with_all_of_pretraining_serves_its_masked_token_head():
    whole, cfg = (bert.compose(**SIZES, head=head) for head in (pretraining.Config(tokens=TOKENS), TOKENS))
    names = fit.theirs(bert, whole) | {"cls.predictions.decoder.weight", "bert.embeddings.position_ids"}
    assert differences(bert.rules(cfg), fit.shapes(cfg), names, fit.optional(bert, cfg)) == []


def test_a_missing_pooler_is_not_overlooked():
    whole, cfg = bert.compose(**SIZES), bert.compose(**SIZES, head=TOKENS)
    lines = differences(bert.rules(whole), fit.shapes(whole), fit.theirs(bert, cfg), bert.ignored(whole))
    assert "bert.pooler.dense.weight is missing in the file" in lines


def published(folder, rename):
    """Writes a tiny checkpoint, its tensors renamed. Returns (config, parameters)."""
    cfg = bert.compose(**SIZES)
    params = {path: jnp.full(leaf.shape, i + 1.0) for i, (path, leaf) in enumerate(fit.shapes(cfg).items())}
    tensors = {}
    for rule in bert.rules(cfg):
        tensors |= zip(rule.theirs, rule.save([np.asarray(params[path]) for path in rule.ours]))
    save_file(rename(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(bert.write(cfg)))
    return cfg, params


def test_the_first_checkpoints_names_of_scale_and_shift_are_known(tmp_path):
    older = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    cfg, params = published(tmp_path, lambda tensors: {older(name): value for name, value in tensors.items()})
    read, loaded = pretrained.load(tmp_path)
    assert read == cfg
    assert all(np.array_equal(leaf, params[path]) for path, leaf in tree.paths(loaded).items())


def test_an_older_name_beside_the_newer_one_raises(tmp_path):
    both = lambda tensors: tensors | {"bert.embeddings.LayerNorm.gamma": tensors["bert.embeddings.LayerNorm.weight"]}
    published(tmp_path, both)
    with pytest.raises(ValueError, match="are both bert.embeddings.LayerNorm.weight"):
        pretrained.open(tmp_path)


@pytest.mark.parametrize("changes, message", [
    ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' must be 'absolute'"),
    ({"is_decoder": True}, "is_decoder=True must be False"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings=False must be True"),
    ({"hidden_act": "mish"}, "hidden_act='mish' must be one of gelu, "),
    ({"architectures": ["BertForNextSentencePrediction"]}, "'BertForNextSentencePrediction' must be one of "),
    ({"num_attention_heads": 7}, "embed_dim=384 must be a multiple of num_heads=7"),
    ({"new_trick": 1}, "new_trick=1 is not handled"),
])  # fmt: skip
def test_reading_refuses_what_no_config_expresses(changes, message):
    with pytest.raises(ValueError) as error:
        bert.read(Attributes(MINILM | changes))
    assert message in str(error.value)


TINY = bert.compose(**SIZES)
LAYERS = TINY.layers.pattern[0]


@pytest.mark.parametrize("cfg, message", [
    (TINY.replace(head=hidden_states.Config()), "head='hidden_states' must be one of pooler, "),
    (TINY.replace(head=masked_lm.Config()), "head.norm.epsilon=1e-12 must be 0.001 in this family"),
    (TINY.replace(position=sinusoidal.Config()), "must be learned in this family"),
    (TINY.replace(final_norm=True), "final_norm=True must be False in this family"),
    (bert.compose(**SIZES, offset=2), "position.offset=2 must be 0 in this family"),
    (decoder.Config(vocab_size=11, embed_dim=6, layers=TINY.layers), "model='decoder' must be 'encoder' in this"),
    (TINY.replace(layers=stack.Config(pattern=(LAYERS.replace(sublayers=(mlp.Config(hidden_dim=3),)),))),
     "layers[0].sublayers=(mlp) must be (attention, mlp) in this family"),
])  # fmt: skip
def test_writing_refuses_what_their_config_cannot_say(cfg, message):
    with pytest.raises(ValueError) as error:
        bert.write(cfg)
    assert message in str(error.value)
