"""The mesh does not change what is learned: ten losses agree on every mesh of 8 devices and on one device."""

import jax
import numpy as np
import pytest

from arch.train import evaluation
from tests.train import tiny

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]
MESHES = [(2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 1, 8)]
"""The first splits over all axes; one axis alone tells where an error is."""


def losses(text, workdir, data, fsdp, tensor, expert=1, **changes):
    """Ten losses of the hybrid on a mesh of this shape."""
    shape = {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor, "mesh.expert": expert}
    cfg = tiny.config(text, "hybrid", eval_every_steps=0, eval_batches=1, checkpoint_every_steps=0, **shape, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "evaluate", lambda *_, **__: {})  # a program to compile that tells nothing here
        tiny.train(cfg, workdir, jax.devices()[: data * fsdp * tensor * expert])
    return tiny.losses(workdir)


@pytest.fixture(scope="module")
def alone(quick, text, tmp_path_factory):
    """The losses on one device."""
    return losses(text, tmp_path_factory.mktemp("alone"), 1, 1, 1)


def test_the_loss_falls_on_one_device(alone):
    assert len(alone) == 10 and alone[-1] < alone[0] - 0.5


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_ten_losses_on_a_mesh_are_those_of_one_device(shape, text, tmp_path, alone):
    np.testing.assert_allclose(losses(text, tmp_path, *shape), alone, rtol=2e-5)


def test_ten_losses_in_chunks_of_tokens_with_a_split_vocabulary_are_those_of_one_device(text, tmp_path, alone):
    np.testing.assert_allclose(losses(text, tmp_path, 2, 2, 2, **{"loss.chunk_tokens": 64}), alone, rtol=2e-5)


def test_ten_losses_with_experts_on_several_devices_are_those_of_one_device(text, tmp_path):
    """Of four experts, which two devices share; rows go to them and back in each layer."""
    mixture = tiny.MOE | {"num_experts": 4}
    both = (dict(sublayers=(tiny.ATTENTION,)), dict(sublayers=(mixture,)))
    layers = {"model.layers": dict(pattern=both, repeats=2)}
    alone = losses(text, tmp_path / "alone", 1, 1, 1, **layers)
    np.testing.assert_allclose(losses(text, tmp_path / "mesh", 2, 1, 2, 2, **layers), alone, rtol=2e-5)
