"""LongT5: sizes, config.json both ways, rules, and what it cannot say."""

import pytest

from arch.families import long_t5, t5
from arch.published import Attributes
from tests.families import fit

COUNTS = {
    "long_t5_local_base": 247_577_856,
    "long_t5_local_large": 783_150_080,
    "long_t5_tglobal_base": 247_587_456,
    "long_t5_tglobal_large": 783_175_168,
    "long_t5_tglobal_xl": 2_849_807_360,
}
SIZES = dict(
    embed_dim=6, num_layers=3, num_heads=2, head_dim=5, hidden_dim=7, decoder_layers=2, vocab_size=11, buckets=6,
    max_distance=13, radius=5,
)  # fmt: skip
TINY = {
    "local": long_t5.compose(sight="local", **SIZES),
    "global": long_t5.compose(sight="transient-global", summary=3, **SIZES),
    "one": long_t5.compose(sight="transient-global", **SIZES | {"num_layers": 1, "gated": True}),
}
TGLOBAL_BASE = {
    "architectures": ["LongT5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 768,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "encoder_attention_type": "transient-global",
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "global_block_size": 16,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "local_radius": 127,
    "model_type": "longt5",
    "n_positions": 4096,
    "num_decoder_layers": 12,
    "num_heads": 12,
    "num_layers": 12,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
}
"""As the config.json of the released long-t5-tglobal-base."""


@pytest.fixture(params=TINY)
def tiny(request):
    return TINY[request.param]


def test_every_preset_is_counted():
    assert long_t5.PRESETS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_transformers_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(long_t5.PRESETS[name]).values()) == COUNTS[name]


def test_the_released_config_reads_as_its_preset():
    assert long_t5.read(Attributes(TGLOBAL_BASE)) == long_t5.PRESETS["long_t5_tglobal_base"]
    local = TGLOBAL_BASE | {"encoder_attention_type": "local"}
    assert long_t5.read(Attributes(local)) == long_t5.PRESETS["long_t5_local_base"]


def test_reading_what_was_written_gives_it_back_and_the_rules_fit(tiny):
    assert long_t5.read(Attributes(long_t5.write(tiny))) == tiny
    assert fit.misfits(long_t5, tiny) == []


def test_only_the_encoder_is_another_than_t5_s():
    plain = t5.compose(**{name: value for name, value in SIZES.items() if name != "radius"})
    assert TINY["global"].decoder == plain.decoder
    assert TINY["global"].encoder.replace(prefix=plain.encoder.prefix, pattern=plain.encoder.pattern) == plain.encoder


def test_tables_of_places_are_those_of_the_first_layer():
    tables = [path for path in fit.shapes(TINY["global"]) if path.endswith("relative") and path.startswith("encoder")]
    first = "encoder/layers/0/transient_global_attention"
    assert sorted(tables) == [f"{first}/global_relative", f"{first}/relative"]


@pytest.mark.parametrize("changes, message", [
    ({"architectures": ["LongT5EncoderModel"]}, "architectures=['LongT5EncoderModel'] must be"),
    ({"encoder_attention_type": "global"}, "encoder_attention_type='global' must be 'local' or 'transient-global'"),
    ({"is_decoder": True}, "is_decoder=True must be False"),
    ({"new_trick": 1}, "new_trick=1 is not handled"),
])  # fmt: skip
def test_reading_refuses_what_no_config_expresses(changes, message):
    with pytest.raises(ValueError) as error:
        long_t5.read(Attributes(TGLOBAL_BASE | changes))
    assert message in str(error.value)


def _with_last(cfg, **changes):
    """The model with other fields in the mixer of its later layers."""
    [layer] = cfg.encoder.pattern
    changed = layer.replace(sublayers=(layer.sublayers[0].replace(**changes), layer.sublayers[1]))
    return cfg.replace(encoder=cfg.encoder.replace(pattern=(changed,)))



@pytest.mark.parametrize("cfg, message", [
    (TINY["local"].encoder, "must be an encoder_decoder in this family"),
    (t5.compose(**{name: value for name, value in SIZES.items() if name != "radius"}), "must be transient_global"),
    (_with_last(TINY["global"], summary=4), "encoder[1].sublayers[0].summary=4 must be 3 in this family"),
    (_with_last(TINY["local"], window=4), "window=4 must be 0 in this family"),
])  # fmt: skip
def test_writing_refuses_what_their_config_cannot_say(cfg, message):
    with pytest.raises(ValueError) as error:
        long_t5.write(cfg)
    assert message in str(error.value)
