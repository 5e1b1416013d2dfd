"""A step of training on rows of 131072 tokens: a whole model with gradient checkpointing, in bounded memory on CPU."""

import pytest

from arch.families import mistral
from arch.layers import token_loss
from arch.train import experiment
from tests.train.test_memory import compiled

LONG = 131072
SIZES = dict(vocab_size=97, embed_dim=16, num_heads=2, num_kv_heads=1, hidden_dim=24)


def temporaries(length, remat="full", *, num_layers=3, full_last=False):
    """Bytes beside the state, of a model with a window that may see all tokens in its last layer."""
    model = mistral.compose(**SIZES, num_layers=num_layers, window=128)
    layers = model.layers.replace(remat=remat)
    if full_last:
        seeing_all = mistral.compose(**SIZES, num_layers=1).layers.pattern
        layers = layers.replace(repeats=layers.repeats - 1, suffix=seeing_all)
    run = experiment.Config(
        model=model.replace(layers=layers),
        total_steps=5,
        batch_size=1,
        seq_len=length,
        loss=token_loss.Config(chunk_tokens=1024),
    )
    return compiled(run).temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("full_last", [False, True])
def test_a_step_at_131072_tokens_takes_memory_for_tokens_and_not_for_pairs(full_last):
    """A bit for each pair of tokens would be 2 GiB; the stream of a layer is 8 MiB."""
    half, whole = (temporaries(length, full_last=full_last) for length in (LONG // 2, LONG))
    assert whole < 2.1 * half
    assert whole < 2**30


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_with_checkpointing_a_layer_more_keeps_its_stream_alone():
    of_three = lambda remat: sum(
        sign * temporaries(LONG // 8, remat, num_layers=number) for sign, number in ((1, 6), (-1, 3))
    )
    stream = LONG // 8 * SIZES["embed_dim"] * 4
    assert of_three("full") < 4 * stream < of_three("none") / 3
