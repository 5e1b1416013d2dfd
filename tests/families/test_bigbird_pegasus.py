"""BigBird-Pegasus is what its config.json says, and what it cannot say is refused."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arch.families import bigbird_pegasus
from arch.published import Attributes
from arch.weights import pretrained
from tests.families import fit
from tests.parity import ours

SIZES = dict(vocab_size=11, embed_dim=12, num_layers=2, num_heads=3, hidden_dim=7, length=31)
LARGE = {
    "activation_dropout": 0.0,
    "activation_function": "gelu_new",
    "architectures": ["BigBirdPegasusForConditionalGeneration"],
    "attention_dropout": 0.0,
    "attention_type": "block_sparse",
    "block_size": 64,
    "bos_token_id": 2,
    "classifier_dropout": 0.0,
    "d_model": 1024,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 16,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 16,
    "eos_token_id": 1,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "length_penalty": 0.8,
    "max_length": 256,
    "max_position_embeddings": 4096,
    "model_type": "bigbird_pegasus",
    "num_beams": 5,
    "num_hidden_layers": 16,
    "num_random_blocks": 3,
    "pad_token_id": 0,
    "scale_embedding": True,
    "use_bias": False,
    "use_cache": True,
    "vocab_size": 96103,
}
"""As the config.json of the released bigbird-pegasus-large-arxiv."""


def tiny(**changes):
    return bigbird_pegasus.compose(**SIZES | dict(evaluation="first") | changes)


def large(**changes):
    sizes = dict(embed_dim=1024, num_layers=16, num_heads=16, hidden_dim=4096)
    return bigbird_pegasus.compose(**sizes | dict(evaluation="first") | changes)


def test_the_released_config_is_the_preset_but_for_what_transformers_evaluates():
    assert bigbird_pegasus.read(Attributes(LARGE)) == large()
    assert bigbird_pegasus.PRESETS == {"bigbird_pegasus_large": large(evaluation="drawn")}


def test_what_a_config_leaves_unsaid_is_as_in_transformers_class():
    assert bigbird_pegasus.read(Attributes({"model_type": "bigbird_pegasus"})) == large()


def test_the_preset_has_transformers_number_of_parameters():
    [preset] = bigbird_pegasus.PRESETS.values()
    assert sum(leaf.size for leaf in fit.shapes(preset).values()) == 576_891_904


VARIANTS = {
    "sparse": {},
    "full": dict(blocks="full", bias=True, scaled_embedding=False, attention_dropout=0.2),
    "shallow": dict(decoder_layers=1, block_size=5, random=1, bias=True, activation="relu"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_reading_what_was_written_gives_it_back_and_the_rules_fit(name):
    made = tiny(**VARIANTS[name])
    assert bigbird_pegasus.read(Attributes(bigbird_pegasus.write(made))) == made
    assert fit.misfits(bigbird_pegasus, made) == []


REFUSED = {
    "decoder_ffn_dim=5 must be the encoder's, 4096": {"decoder_ffn_dim": 5},
    "num_hidden_layers=3 must be 16": {"num_hidden_layers": 3},
    "activation_dropout=0.5 must be 0.0": {"activation_dropout": 0.5},
    "new_trick=1 is not handled": {"new_trick": 1},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_config_expresses_is_refused(message):
    with pytest.raises(ValueError, match=message):
        bigbird_pegasus.read(Attributes(LARGE | REFUSED[message]))


def test_a_model_that_meets_its_random_blocks_outside_training_is_not_written():
    with pytest.raises(ValueError, match="evaluation='drawn' must be 'first' in this family"):
        bigbird_pegasus.write(tiny(evaluation="drawn"))


def test_a_bias_of_the_logits_that_was_trained_is_refused(tmp_path):
    ours.write_checkpoint("bigbird_pegasus", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["final_logits_bias"] = np.float32(np.arange(53)[None] == 7)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="final_logits_bias must be 0"):
        pretrained.load(tmp_path)
