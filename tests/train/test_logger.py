"""A log does not hold the device up: one read a logged step, of a step that is over; none of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.train import loop
from arch.train.histograms import EDGES, Histograms, of_tree
from arch.train.logger import Logger
from arch.train.profiling import Config as Profile
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def reads(quick, text, tmp_path_factory):
    """What a run of ten steps, logged every four, read from the device for its log: (steps taken, tree)."""
    found, steps, get = [], [], jax.device_get
    step = Logger.step

    def counting(self, number, *args, **kwargs):
        steps.append(number)
        return step(self, number, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Logger, "step", counting)
        patch.setattr(jax, "device_get", lambda tree: found.append((len(steps), tree)) or get(tree))
        changes = dict(log_every_steps=4, eval_every_steps=0, checkpoint_every_steps=0)
        tiny.train(tiny.config(text, **changes), tmp_path_factory.mktemp("reads"))
    return [(taken, tree) for taken, tree in found if "loss" in tree]


def test_a_logged_step_is_read_once_while_the_next_one_runs(reads):
    assert [taken for taken, _ in reads] == [5, 9, 10]  # steps 4 and 8; and 10, which is the last


def test_one_read_holds_all_that_is_logged_of_a_step(reads):
    for _, tree in reads:
        assert {"loss", "gradient_norm", "parameter_norm", "learning_rate", "stats"} <= tree.keys()


def test_the_log_touches_no_array_of_a_step_that_is_not_logged(text, tmp_path, monkeypatch):
    """Each way to a value goes through `_value`; what the check for bad numbers reads is asked for before the log."""
    array, during, read = type(jnp.zeros(())), [], []
    value, log = array._value, Logger.step

    def step(self, number, *args, due, **kwargs):
        during.append(due)
        log(self, number, *args, due=due, **kwargs)
        during.pop()

    def counting(self):
        read.extend(during)
        return value.fget(self)

    monkeypatch.setattr(Logger, "step", step)
    monkeypatch.setattr(array, "_value", property(counting))
    changes = dict(log_every_steps=100, eval_every_steps=0, checkpoint_every_steps=0)
    tiny.train(tiny.config(text, **changes), tmp_path)
    assert read == []


def test_histograms_count_on_the_device_what_numpy_counts():
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    values[0, 0, :3] = 0, 1e4, -1e4
    found = jax.device_get(of_tree({"layers": {"scan_0_1": {"0": {"up": jnp.asarray(values)}}}}, name="p"))
    assert list(found) == [f"p/layers/{i}/up" for i in range(3)]
    edges = np.concatenate([[-np.inf], EDGES.astype(np.float32), [np.inf]])
    for layer, one in zip(values, found.values(), strict=True):
        expected = [np.sum((layer > low) & (layer <= high)) for low, high in zip(edges, edges[1:])]
        np.testing.assert_array_equal(one.counts, expected)
        assert (one.smallest, one.largest) == (layer.min(), layer.max())
        np.testing.assert_allclose([one.total, one.squares], [layer.sum(), np.square(layer).sum()], rtol=1e-4)


def test_only_counts_leave_the_device():
    shapes = jax.eval_shape(lambda x: of_tree({"w": x}, name="p"), jnp.zeros((1000, 1000)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == len(EDGES) + 1 + 4


def test_updates_are_what_a_step_adds():
    histograms = Histograms(3)
    assert [step for step in range(1, 8) if histograms.due(step)] == [3, 6]
    histograms.before({"w": jnp.ones(4)})
    found = histograms.after({"w": jnp.full(4, 1.5)})
    assert list(found) == ["parameters/w", "updates/w"]
    assert (found["parameters/w"].total, found["updates/w"].total) == (6, 2)


def test_no_histogram_is_due_unless_asked_for():
    assert not any(map(Histograms(0).due, range(5)))


def test_steps_to_trace_are_a_first_one_and_a_number():
    with pytest.raises(ValueError, match=r"steps=\(10,\) must be the first step and their number"):
        Profile(steps=(10,))


def test_a_run_that_ends_within_its_trace_leaves_one(text, tmp_path):
    cfg = tiny.config(text, **{"profile.steps": (4, 100), "total_steps": 4, "eval_every_steps": 0})
    loop.train(tiny.prepare(cfg, tmp_path), {})
    assert len(list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))) == 1
