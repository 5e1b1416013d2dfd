"""A bad batch is saved and studied; it is skipped, taken, or the end of the run; and the run goes on past it."""

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from arch import tree
from arch.data import task
from arch.sharding import mesh as meshes
from arch.train import bad_batch, command_line, experiment, forensics, guard, norms, restore
from arch.train import state as states
from arch.train.logger import Logger
from arch.train.objective import objective, totals
from tests.train import tiny, tiny_labelled, tiny_tasks

ROWS = 16
LAYERS = {"pattern": ({"sublayers": (tiny.MLP,), "dropout": 0.1},), "repeats": 2}
BASE = {
    "model.layers": LAYERS,
    "ema.decay": 0.5,
    "batch_size": ROWS,
    "micro_batches": 2,
    "log_every_steps": 3,
    "eval_every_steps": 0,
    "checkpoint_every_steps": 4,
}
SPIKES = {
    "model.layers": {"pattern": ({"sublayers": (tiny.MLP,)},), "repeats": 2},
    "optimizer.learning_rate": 0.03,
    "optimizer.warmup_steps": 0,
    "bad_batch.spike_sigmas": 4.0,
    "bad_batch.spike_after": 4,
}
FIRST, SECOND = 6, 8
"""Steps with bad batches: the first is looked at a step later, the second at once, for it is one of a checkpoint."""


class Changed:
    """Samples of which those of some steps are changed."""

    endless = True

    def __init__(self, samples, steps, change):
        self.samples, self.steps, self.change = samples, steps, change
        self.samples_per_epoch, self.origin = samples.samples_per_epoch, samples.origin

    def __getitem__(self, index):
        sample = self.samples[index]
        return self.change(sample) if index // ROWS + 1 in self.steps else sample


def without_numbers(sample):
    return sample | {"weights": sample["weights"] * np.float32("nan")}


def of_other_bytes(sample):
    return sample | {"targets": 130 + sample["targets"] % 101}


@contextlib.contextmanager
def bad(steps, change=without_numbers):
    """The training batches of these steps are bad."""
    samples = task.Task.samples

    def changed(self, tokenized, split, **how):
        made = samples(self, tokenized, split, **how)
        return Changed(made, steps, change) if split == "train" else made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task.Task, "samples", changed)
        yield


def state(workdir, step=10):
    """All leaves of a saved state, by path."""
    leaves, _ = restore.restore_step(workdir / "checkpoints" / str(step), None)
    return tree.paths(leaves)


STATE = ("step", "params", "opt_state", "average", "watch")


def assert_same(one, other, parts=STATE, close=np.testing.assert_array_equal):
    leaves, others = ({path: leaf for path, leaf in s.items() if path.split("/")[0] in parts} for s in (one, other))
    assert leaves and leaves.keys() == others.keys()
    for path, leaf in leaves.items():
        close(leaf, others[path], err_msg=path)


def report(workdir, step):
    return json.loads((workdir / "bad_batches" / f"step_{step}" / "report.json").read_text())


@pytest.fixture(scope="module")
def skip(text):
    return tiny.config(text, **BASE, **{"bad_batch.on_nonfinite": "skip"})


@pytest.fixture(scope="module")
def skipped(quick, skip, tmp_path_factory):
    """A run that skips two batches."""
    workdir = tmp_path_factory.mktemp("skipped")
    with bad({FIRST, SECOND}):
        tiny.train(skip, workdir)
    return workdir


@pytest.fixture(scope="module")
def stopped(quick, text, tmp_path_factory):
    """A run that stopped at the first of them, twice, and both messages."""
    workdir, said = tmp_path_factory.mktemp("stopped"), []
    with bad({FIRST, SECOND}):
        for _ in range(2):
            with pytest.raises(guard.BadBatchError) as error:
                tiny.train(tiny.config(text, **BASE), workdir)
            said.append(str(error.value))
    return workdir, said


def test_to_skip_a_batch_is_to_leave_it_out(skipped, text, tmp_path):
    tiny.train(tiny.config(text, **BASE, **{"bad_batch.skip_steps": (FIRST, SECOND)}), tmp_path)
    assert_same(state(tmp_path), state(skipped), parts=("step", "params", "opt_state", "average"))


def test_skipped_steps_are_counted_and_said(skipped):
    counts = [(step, value) for step, name, value in tiny.curve(skipped) if name == "train/skipped_steps"]
    assert counts == [(3, 0), (6, 1), (9, 2), (10, 2)]
    texts = [json.loads(line) for line in (skipped / "texts.jsonl").read_text().splitlines()]
    said = {line["step"]: line["bad_batch"] for line in texts if "bad_batch" in line}
    assert said.keys() == {FIRST, SECOND} and all("loss is nan" in text and "skipped" in text for text in said.values())


@pytest.mark.slow
def test_a_run_that_is_killed_behind_a_skipped_batch_is_the_whole_one(skipped, skip, tmp_path):
    with bad({FIRST, SECOND}):
        with tiny.at_line(f"at step {FIRST}", lambda: signal.raise_signal(signal.SIGTERM)):
            tiny.train(skip, tmp_path)
        assert tiny.steps_in(tmp_path)[-1] == FIRST + 1
        tiny.train(skip, tmp_path)
    assert tiny.curve(tmp_path) == tiny.curve(skipped)
    assert_same(state(tmp_path), state(skipped))


def test_the_batch_is_saved_as_it_was_read(skipped, skip):
    folder = skipped / "bad_batches" / f"step_{FIRST}"
    with bad({FIRST, SECOND}):
        ready = tiny.prepare(skip, skipped)
        rows = ready.dataset("train")[FIRST - 1]
    with np.load(folder / "batch.npz") as saved:
        assert set(saved) == set(rows)
        for name, values in rows.items():
            np.testing.assert_array_equal(saved[name], values)
    texts = (folder / "texts.txt").read_text()
    for i, row in zip(rows["ids"], rows["tokens"]):
        assert f"--- sample {i}\n{ready.data.tokenizer.decode(row.tolist())}" in texts
    assert json.loads((folder / "config.json").read_text())["bad_batch"]["on_nonfinite"] == "skip"


def test_the_report_says_what_was_wrong_and_where_it_began(skipped):
    content = report(skipped, FIRST)
    expected = {"step": FIRST, "quantity": "loss", "kind": "nonfinite", "value": "nan", "action": "skip"}
    assert content.items() >= expected.items()
    assert content["sample_ids"] == list(range(ROWS * (FIRST - 1), ROWS * FIRST))
    assert content["parameters_of_step"] == FIRST - 1 and content["first_nonfinite"] == "loss"
    assert content["norms"]["gradients"]["layers/1/mlp/up"] == "nan"
    assert len(content["origins"]) == ROWS and content["origins"][0]["documents"]


def test_to_stop_leaves_a_checkpoint_of_the_state_before(stopped, skipped):
    workdir, _ = stopped
    assert tiny.steps_in(workdir)[-1] == FIRST - 1
    assert not list(workdir.glob("bad_batches/.*"))


def test_the_message_names_everything(stopped):
    workdir, (first, second) = stopped
    ids = list(range(ROWS * (FIRST - 1), ROWS * FIRST))
    assert first == (
        f"loss is nan at step {FIRST}, in the batch with sample ids {ids}; saved in {workdir}/bad_batches/step_{FIRST}"
        f"; the newest checkpoint is of step {FIRST - 1}; --config.bad_batch.skip_steps='({FIRST},)' leaves this batch "
        "out, --config.bad_batch.on_nonfinite=skip all that are like it"
    )
    before = f"step_{FIRST} has been saved before, and stays;"
    assert second == first.replace("saved in ", "").replace(f"step_{FIRST};", before)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_flags_of_the_message_are_flags_of_run_py(stopped):
    given = re.findall(r"--config\.\S+?=[^ ;,]+(?:,\))?", stopped[1][0].replace("'(", "(").replace(")'", ")"))
    argv, values = ["run.py", f"--config={tiny.__file__}", *given], flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    command_line.parse(values, argv)
    parsed = experiment.from_dict(holder.value).bad_batch
    assert parsed.skip_steps == (FIRST,) and parsed.on_nonfinite == "skip"


def test_a_stopped_run_goes_on_past_the_batch(stopped, skipped, skip, tmp_path):
    subprocess.run(["cp", "-r", str(stopped[0]), str(tmp_path / "copy")], check=True)
    with bad({FIRST, SECOND}):
        tiny.train(skip, tmp_path / "copy")
    assert_same(state(tmp_path / "copy"), state(skipped))


def test_too_many_bad_batches_in_a_row_end_the_run(skip, tmp_path):
    cfg = skip.replace(bad_batch=skip.bad_batch.replace(max_skips=2, max_saved=1, layer_norms=False))
    said = "at step 6, .*, and bad_batch.max_skips=2 before it were skipped in a row; not saved: bad_batch.max_saved=1;"
    with bad({2, 4, 5, 6}), pytest.raises(guard.BadBatchError, match=said):
        tiny.train(cfg, tmp_path)
    assert tiny.steps_in(tmp_path)[-1] == 5 and "norms" not in report(tmp_path, 2)


@pytest.fixture(scope="module")
def spike(quick, text, tmp_path_factory):
    """A run that stopped at a spike in step 9."""
    workdir = tmp_path_factory.mktemp("spike")
    with bad({9}, of_other_bytes), pytest.raises(guard.BadBatchError, match="loss is .* a spike above .* at step 9"):
        tiny.train(tiny.config(text, **BASE | SPIKES, **{"bad_batch.on_spike": "stop"}), workdir)
    return workdir


def test_the_norms_are_those_of_the_batch_at_the_state_before_it(spike, text):
    cfg = tiny.config(text, **BASE | SPIKES)
    model, params = cfg.model.make(), tree.from_paths(
        {path.removeprefix("params/"): leaf for path, leaf in state(spike, 8).items() if path.startswith("params/")}
    )
    with np.load(spike / "bad_batches" / "step_9" / "batch.npz") as saved:
        batch = {name: jnp.asarray(values) for name, values in saved.items() if name != "ids"}

    def loss(params):
        return objective(model, params, batch, totals(cfg.task, batch), None)[0]

    def of_all(leaves):
        return {path: np.linalg.norm(np.float64(leaf)) for path, leaf in tree.paths(tree.unstack(leaves)).items()}

    content, (value, gradients) = report(spike, 9), jax.jit(jax.value_and_grad(loss))(params)
    assert content["norms"]["gradients"] == pytest.approx(of_all(gradients), rel=1e-4)
    assert content["norms"]["parameters"] == pytest.approx(of_all(params), rel=1e-5)
    assert content["value"] == pytest.approx(float(value), rel=1e-5) and content["value"] > content["threshold"]
    hidden = jax.jit(lambda tokens: model.apply({"params": params}, tokens, method="hidden").x)(batch["tokens"])
    outputs = content["norms"]["activations"]
    assert outputs["model.hidden"] == pytest.approx(float(np.linalg.norm(hidden)), rel=1e-5)
    assert [name for name in outputs if name.endswith("mlp")] == ["layers/0/mlp", "layers/1/mlp"]
    assert content["first_nonfinite"] == ""


@pytest.mark.slow
def test_a_spike_that_is_saved_is_taken_as_any_other_batch(text, tmp_path):
    cfg = tiny.config(text, **BASE | SPIKES)
    with bad({9}, of_other_bytes):
        tiny.train(cfg, tmp_path / "off")
        tiny.train(cfg.replace(bad_batch=cfg.bad_batch.replace(on_spike="save")), tmp_path / "save")
    rounded = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)  # they are two programs
    assert_same(state(tmp_path / "save"), state(tmp_path / "off"), close=rounded)
    np.testing.assert_allclose(tiny.losses(tmp_path / "save"), tiny.losses(tmp_path / "off"), rtol=1e-5)
    assert report(tmp_path / "save", 9)["action"] == "save" and not (tmp_path / "off" / "bad_batches").exists()


def saved(ready, workdir):
    """The texts and the rows that are saved of the first batch."""
    with jax.set_mesh(ready.mesh):
        event = forensics.Event(1, "loss", "spike", 2.0, 1.0, "save", 2.0)
        state = dataclasses.replace(ready.plan.abstract, step=0)
        forensics.Forensics(ready, jax.random.key(0)).save(event, state, {})
    folder = workdir / "bad_batches" / "step_1"
    with np.load(folder / "batch.npz") as rows:
        return (folder / "texts.txt").read_text(encoding="utf-8"), dict(rows)


def test_the_texts_of_an_encoder_decoder_are_sources_and_targets(text, tmp_path):
    cfg = tiny_tasks.config(text, "spans", **{"bad_batch.layer_norms": False})
    texts, rows = saved(ready := tiny.prepare(cfg, tmp_path), tmp_path)
    pieces = texts.split("--- sample ")[1:]
    assert len(pieces) == 2 * cfg.batch_size
    decode = ready.data.tokenizer.decode
    for i, (source, target) in enumerate(zip(pieces[::2], pieces[1::2])):
        assert source == f"{i} source\n{decode(rows['source'][i][rows['source_valid'][i]])}\n"
        assert target == f"{i} tokens\n{decode(rows['tokens'][i][rows['valid'][i]])}\n"
    assert all(len(piece) > len("0 source\n") + 3 and "\0" not in piece for piece in pieces)


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_the_texts_of_labelled_documents_have_no_padding(task, tmp_path):
    fields = tiny_labelled.fields(task) | {"bad_batch": {"layer_norms": False}}
    data = fields["data"] | {"path": str(tiny_labelled.write(tmp_path / "data.jsonl", task))}
    texts, rows = saved(tiny.prepare(experiment.from_dict(fields | {"data": data}), tmp_path / "run"), tmp_path / "run")
    assert not rows["valid"].all()
    said = [piece.split("\n", 1)[1].removesuffix("\n") for piece in texts.split("--- sample ")[1:]]
    assert len(said) == fields["batch_size"]
    for words in said:
        assert len(words.split()) == 3 and set(words.split()) <= set(tiny_labelled.WORDS)


NORMS = {
    "parameters": {"a": 1.0, "b": 1.0},
    "activations": {"encode": 1.0, "layers/0": 1.0, "layers/1": 1.0},
    "gradients": {"embedding": 1.0, "layers/0": 1.0, "norm": 1.0},
}


@pytest.mark.parametrize(
    ("changes", "loss", "expected"),
    [
        ({}, 1.0, ""),
        ({"gradients": ("embedding", "layers/0")}, 1.0, "gradients: layers/0"),
        ({"gradients": ("embedding", "layers/0", "norm")}, np.nan, "loss"),
        ({"activations": ("layers/0", "layers/1"), "gradients": ("norm",)}, np.nan, "activations: layers/0"),
        ({"activations": ("encode",), "parameters": ("b",)}, np.nan, "parameters: b"),
    ],
)
def test_the_first_that_is_not_finite_is_named(changes, loss, expected):
    found = {kind: each | dict.fromkeys(changes.get(kind, ()), np.inf) for kind, each in NORMS.items()}
    assert norms.first_nonfinite(found, loss) == expected


def test_a_layer_whose_output_overflows_is_named(quick, text, tmp_path):
    ready = tiny.prepare(tiny.config(text, **BASE), tmp_path)
    with jax.set_mesh(ready.mesh):
        whole = states.init(ready.model, ready.optimizer, ready.plan, jax.random.key(0))
        params = tree.paths(whole.params)
        for path in params:
            if path.endswith(("mlp/up", "mlp/down")):
                params[path] = params[path].at[1].multiply(1e25)
        rows = ready.dataset("train")[0]
        rows.pop("ids")
        broken = dataclasses.replace(whole, params=tree.from_paths(params))
        found = norms.Norms(ready)(broken, meshes.global_batch(rows, ready.mesh), jax.random.key(0))
    assert norms.first_nonfinite(found, np.nan) == "activations: layers/1/mlp"


def test_a_norm_overflows_only_where_a_number_does():
    assert float(norms.norm(np.float32([3e30, 4e30]))) == pytest.approx(5e30)
    assert float(norms.norm(np.zeros((2, 3)))) == 0
    assert not any(np.isfinite(norms.norm(np.float32([1, bad]))) for bad in (np.inf, np.nan))


def test_an_update_that_takes_parameters_out_of_range_ends_the_run(quick, text, tmp_path):
    changes = {"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0, "bad_batch.layer_norms": False}
    said = r"parameter_norm is inf at step 1, .*; there is no checkpoint; .*skip_steps='\(1,\)' leaves this batch out$"
    with pytest.raises(guard.BadBatchError, match=said):
        tiny.train(tiny.config(text, **BASE | changes), tmp_path)
    assert report(tmp_path, 1)["quantity"] == "parameter_norm" and not tiny.steps_in(tmp_path)


def test_a_spike_whose_update_takes_parameters_out_of_range_ends_the_run(text, tmp_path):
    """Neither the next step nor a checkpoint comes behind it."""
    changes = {"bad_batch.on_spike": "save", "bad_batch.layer_norms": False}
    ready, orders = tiny.prepare(tiny.config(text, **BASE | changes), tmp_path), []
    spike, update = bad_batch.REASONS.index(("loss", "spike")), len(bad_batch.REASONS) - 1

    def step(state, batch, key, order):
        number, what = order[0] + 1, order[1]
        orders.append((number, what))
        reason = {bad_batch.JUDGE: spike, bad_batch.TAKE: update}[what] if number == 1 else 0
        metrics = {"loss": 9.0, "gradient_norm": 1.0, "parameter_norm": np.inf}
        return state, metrics | {"verdict": {"reason": reason, "limits": (1.0, 1.0)}}

    logger, save = mock.create_autospec(Logger, instance=True), mock.Mock(return_value=-1)
    state = dataclasses.replace(ready.plan.abstract, step=0)
    watch = guard.Guard(ready, step, jax.random.key(0), logger, save)
    rows = ready.dataset("train")
    watch.take(state, rows[0], 1)
    with pytest.raises(guard.BadBatchError, match="parameter_norm is inf at step 1, .* has been saved before"):
        watch.take(state, rows[1], 2)
    assert orders == [(1, bad_batch.JUDGE), (2, bad_batch.JUDGE), (1, bad_batch.TAKE)]
    save.assert_called_once_with(None)
    assert report(tmp_path, 1)["action"] == "save"


class Number:
    """A number on the device that tells when it is read."""

    def __init__(self, value, name, events):
        self.value, self.name, self.events = value, name, events

    def __int__(self):
        self.events.append(self.name)
        return self.value


def test_one_number_a_step_is_read_when_the_next_step_is_under_way(text, tmp_path):
    ready, events = tiny.prepare(tiny.config(text), tmp_path), []
    first = ready.plan.abstract

    def step(state, batch, key, order):
        number = int(order[0]) + 1
        events.append(f"step {number}")
        reason = Number(0, f"look at {number}", events)
        return state, {"loss": object(), "verdict": {"reason": reason, "limits": object()}}

    watch = guard.Guard(ready, step, jax.random.key(0), mock.create_autospec(Logger, instance=True), lambda state: -1)
    for i in range(3):
        watch.take(first, ready.dataset("train")[i], i + 1)
    watch.settle(first)
    assert events == ["step 1", "step 2", "look at 1", "step 3", "look at 2", "look at 3"]
