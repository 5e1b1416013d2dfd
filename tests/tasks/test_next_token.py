"""The next token: it suits decoders, as far as their positions reach."""

import pytest

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
    with pytest.raises(ValueError, match="seq_len=29 must be at most 28, the model's positions"):
        next_token.Config().must_suit(model, seq_len=29)
