"""What decoding remembers is told in bytes, and for a recurrent model is the same at 100,000 tokens."""

from arch import config
from arch.families import bert, mamba_lm
from arch.models import decoder
from arch.train.remembered import LONG, remembered, table

HEADS = dict(num_heads=2, head_dim=3)


def test_keys_and_values_grow_and_states_do_not():
    sublayers = (
        dict(name="attention", **HEADS),
        dict(name="mamba", inner_dim=5, state_dim=2),
        dict(name="mlp", hidden_dim=7),
    )
    layers = dict(pattern=(dict(sublayers=sublayers),), repeats=3)
    cfg = config.from_dict(decoder.Config, dict(vocab_size=11, embed_dim=6, layers=layers))
    state = 3 * 4 * (3 * 5 + 5 * 2)
    attention = lambda length: 3 * (4 * 2 * length * 2 * 3 + 4)
    assert remembered(cfg, 7) == {"attention": attention(7), "mamba": state}
    assert remembered(cfg, LONG) == {"attention": attention(LONG), "mamba": state}
    assert f"| attention | {attention(7):,} | {attention(LONG):,} |\n| mamba | {state} | {state} |" in table(cfg, 7)


def test_a_published_mamba_remembers_as_much_at_any_length():
    cfg = mamba_lm.PRESETS["mamba_130m"]
    assert remembered(cfg, 1) == remembered(cfg, LONG) == {"mamba": 24 * 4 * (3 * 1536 + 1536 * 16)}


def test_an_encoder_remembers_nothing():
    cfg = bert.compose(num_layers=1, embed_dim=6, num_heads=2)
    assert remembered(cfg, 7) == {} and table(cfg, 7).startswith("Nothing")
