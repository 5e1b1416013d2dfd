"""The dashboard of mixtures of experts reads nothing of its own from the devices: it is made of what is read anyway."""

import jax
import pytest

from arch.train.logger import Logger
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("quick")
RUN = dict(log_every_steps=4, eval_every_steps=8, eval_batches=2, checkpoint_every_steps=0)


def _what(tree) -> str:
    return "step" if "loss" in tree else "batch" if "terms" in tree else "loads"


def reads(text, workdir) -> list[tuple[int, str]]:
    """(steps taken, what) of each transfer from the first step on, of a run of one mixture."""
    found, steps, step, get = [], [], Logger.step, jax.device_get

    def counting(self, number, *args, **kwargs):
        steps.append(number)
        return step(self, number, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Logger, "step", counting)
        patch.setattr(jax, "device_get", lambda tree: found.append((len(steps), _what(tree))) or get(tree))
        tiny.train(tiny.config(text, **RUN, **{"model.layers": dict(pattern=(dict(sublayers=(tiny.MOE,)),))}), workdir)
    return [read for read in found if read[0]]


@pytest.fixture(scope="module")
def mixture(quick, text, tmp_path_factory):
    """The reads of a mixture's run, and its folder."""
    workdir = tmp_path_factory.mktemp("mixture")
    return reads(text, workdir), workdir


def test_each_logged_step_is_one_read_and_each_batch_of_an_evaluation_one(mixture):
    evaluation = ["batch", "batch", "loads"]
    at_8, at_10 = ([(step, what) for what in ["step", *evaluation]] for step in (8, 10))
    assert mixture[0] == [(5, "step"), *at_8, *at_10]  # step 4 is read when step 5 is on its way


def test_all_of_the_dashboard_was_made_of_them(mixture):
    lines, workdir = tiny.metrics(mixture[1]), mixture[1]
    assert all(any(name.startswith("moe/layers/0/load") for name in line) for line in lines if "train/loss" in line)
    assert (workdir / "routing.json").exists() and "coactivation" in (workdir / "texts.jsonl").read_text()
