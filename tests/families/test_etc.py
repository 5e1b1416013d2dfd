"""ETC has the sizes of the released code, and its rows are of any length."""

from arch.families import etc
from tests.families import fit


def test_the_preset_is_bert_with_labels_and_global_tokens_for_positions_and_segments():
    bert_base, position, segments = 109_482_240, 512 * 768, 2 * 768
    labels, global_tokens = 12 * 2 * (2 * 12 + 1 + 2) * 768, 256 * 768
    count = sum(leaf.size for leaf in fit.shapes(etc.PRESETS["etc_base"]).values())
    assert count == bert_base - position - segments + labels + global_tokens


def test_a_row_costs_what_its_length_and_its_global_tokens_do():
    cfg = etc.PRESETS["etc_base"]
    assert cfg.position.max_length == 0
    short, long = (cfg.flops(length, predicted=1).executed for length in (4096, 8192))
    assert 1.9 < long / short < 2.0


def test_the_layers_count_as_many_global_tokens_as_the_model_puts_in_front():
    cfg = etc.compose(num_globals=5, radius=3, num_layers=2, embed_dim=12, num_heads=3)
    assert cfg.global_tokens == cfg.layers.blocks[1].sublayers[0].num_globals == 5
    assert cfg.layers.blocks[1].sublayers[0].radius == 3
