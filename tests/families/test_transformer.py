"""The 2017 Transformer: the paper's sizes and composition."""

import pytest

from arch.families import transformer
from tests.families import fit

PRINTED = {"transformer_base": 65e6, "transformer_big": 213e6}
"""Table 3."""
COUNTS = {"transformer_base": 63_045_632, "transformer_big": 214_171_648}
TINY = transformer.compose(embed_dim=6, num_layers=2, num_heads=2, hidden_dim=5, vocab_size=11)
ATTENTION = "query key value out".split()


def test_every_preset_is_counted():
    assert transformer.PRESETS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_about_the_printed_number_of_parameters(name):
    found = sum(leaf.size for leaf in fit.shapes(transformer.PRESETS[name]).values())
    assert found == COUNTS[name] and abs(found / PRINTED[name] - 1) < 0.035


def test_its_count_is_that_of_the_paper_s_formulas():
    d, f, layers, ids = 512, 2048, 6, 37000
    attention, ffn, norm = 4 * d * d, 2 * d * f + f + d, 2 * d
    expected = ids * d + layers * (attention + ffn + 2 * norm) + layers * (2 * attention + ffn + 3 * norm)
    assert expected == COUNTS["transformer_base"]


def test_a_model_s_paths_are_those_of_the_contract():
    ffn = ["mlp/up", "mlp/up_bias", "mlp/down", "mlp/down_bias"]
    parts = {"encoder": ("attention", "mlp"), "decoder": ("attention", "cross_attention", "mlp")}
    expected = ["embedding/table"]
    for side, labels in parts.items():
        for i in range(2):
            paths = [f"{label}/{name}" for label in labels if label != "mlp" for name in ATTENTION] + ffn
            paths += [f"{label}_norm/{name}" for label in labels for name in ("scale", "bias")]
            expected += [f"{side}/layers/{i}/{path}" for path in paths]
    assert sorted(fit.shapes(TINY)) == sorted(expected)


def test_embeddings_are_scaled_by_the_root_of_the_width_and_tied():
    assert TINY.embedding.scale == 0.0 and TINY.tie_embeddings and TINY.logit_scale == 1.0
