"""The next token: it suits decoders, as far as their positions reach."""

import pytest

from arch import config
from arch.models import decoder
from arch.positions import learned
from arch.tasks import next_token
from tests.train import tiny, tiny_tasks


@pytest.mark.parametrize("kind", tiny_tasks.RUNS)
def test_a_model_without_a_next_token_is_named(kind):
    model = tiny_tasks.config("text", kind).model
    with pytest.raises(ValueError, match="model.name='encoder.*' must be 'decoder' with task.name='next_token'"):
        next_token.Config().must_suit(model, seq_len=29)


def test_a_decoder_suits_as_far_as_its_positions_reach():
    model = tiny.config("text").model.replace(position=learned.Config(length=28))
    next_token.Config().must_suit(model, seq_len=28)
    with pytest.raises(ValueError, match=r"seq_len=29 must be at most 28, .* model\.position=.*length=28, offset=0"):
        next_token.Config().must_suit(model, seq_len=29)


@pytest.mark.parametrize("mixers", [("attention",), ("mamba", "attention")])
def test_a_decoder_that_sees_the_next_token_is_refused(mixers):
    blocks = tuple(dict(sublayers=({"attention": tiny_tasks.BOTH_WAYS, "mamba": tiny.MAMBA}[name],)) for name in mixers)
    model = config.from_dict(decoder.Config, dict(layers=dict(pattern=blocks), **tiny_tasks.WIDTHS))
    rule = f"model.layers: attention.causal=False of layer {len(mixers) - 1} must be True with task.name='next_token'"
    with pytest.raises(ValueError, match=rule):
        next_token.Config().must_suit(model, seq_len=29)


def test_a_router_whose_choice_depends_on_later_tokens_is_named_in_the_log(caplog):
    ours = dict(name="moe", num_experts=3, top_k=1, hidden_dim=16, renormalize=False, balance_weight=0.0)
    for router in ("expert_choice", "top_k"):
        blocks = (dict(sublayers=(tiny.ATTENTION, ours | dict(router=dict(name=router)))),)
        layers = dict(pattern=blocks, repeats=2)
        model = config.from_dict(decoder.Config, dict(layers=layers, **tiny_tasks.WIDTHS))
        next_token.Config().must_suit(model, seq_len=29)
    rest = "later tokens have a say in what the loss of task next_token is"
    assert caplog.messages == [f"model.layers: expert_choice is not causal: {rest}"]


def test_a_mixer_that_does_not_keep_documents_apart_is_named_in_the_log(caplog):
    for mixer in (dict(name="hyena", max_length=29), tiny.MAMBA):
        blocks = (dict(sublayers=(mixer,)),)
        model = config.from_dict(decoder.Config, dict(layers=dict(pattern=blocks), **tiny_tasks.WIDTHS))
        next_token.Config().must_suit(model, seq_len=29)
    rest = "a document's loss of task next_token depends on what else is in its row"
    assert caplog.messages == [f"model.layers: with hyena {rest}"]
