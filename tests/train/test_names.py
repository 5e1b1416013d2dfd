"""Every scalar, text, image and histogram of a run is in the table of names, and every row of the table is in a run."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from arch import config
from arch.layers.contract import Aux
from arch.layers.weight import unbox
from arch.models import decoder, encoder, encoder_decoder
from arch.tasks import next_token
from arch.train import loop, names, report, routing_alarm, utilization
from arch.train.startup import Startup
from tests.train import tiny

LAYERS = dict(pattern=(dict(sublayers=(tiny.MLP, tiny.MOE)),), repeats=2)
KINDS = {"scalar": "scalars", "image": "images", "histogram": "histograms", "text": "tensors"}


def with_everything(patch):
    """Makes a run on a CPU tell what only others do: a device's memory and peak, a second term, numbers of an MLP."""
    terms, under = next_token.Config.terms, Aux.under

    def two_terms(*args):
        found, aux = terms(*args)
        return found | {"second": found["tokens"]}, aux

    def telling(aux, prefix):
        more = {"scalar": jnp.float32(0.5), "vector": jnp.arange(2.0)} if prefix == "mlp" else {}
        return under(Aux(aux.losses, aux.stats | more), prefix)

    weights = lambda task, batch: dict.fromkeys(("tokens", "second"), jnp.sum(batch["weights"]))
    patch.setattr(next_token.Config, "terms", two_terms)
    patch.setattr(next_token.Config, "weights", weights)
    patch.setattr(Aux, "under", telling)
    patch.setitem(utilization.PEAKS, "cpu", 0.1)
    patch.setattr(routing_alarm, "PATIENCE", 1)
    patch.setattr(routing_alarm, "SURE_BELOW", 1.0)
    patch.setattr(report, "device_memory", lambda: {0: {"bytes_in_use": 5, "peak_bytes_in_use": 7}})


@pytest.fixture(scope="module")
def workdir(quick, text, tmp_path_factory):
    """A run that writes all that there is."""
    folder = tmp_path_factory.mktemp("names")
    changes = {
        "model.layers": LAYERS, "model.dtype": "float16", "sample_prompt": "all", "sample.max_new_tokens": 2,
        "total_steps": 5, "histogram_every_steps": 4, "profile.steps": (2, 2),
        "bad_batch.on_spike": "save", "bad_batch.spike_sigmas": 1e-6, "bad_batch.spike_after": 2,
        "bad_batch.layer_norms": False,
    }  # fmt: skip
    startup = Startup()
    startup.mark("imports")
    with pytest.MonkeyPatch.context() as patch:
        with_everything(patch)
        ready = tiny.prepare(tiny.config(text, **changes), folder)
        startup.mark("setup")
        loop.train(ready, {}, startup)
    return folder


@pytest.fixture(scope="module")
def events(workdir):
    return EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0}).Reload()


@pytest.fixture(scope="module")
def written(events):
    """The names in the event files, by kind, without those of TensorBoard's own tab of hyperparameters."""
    tags = {kind: events.Tags()[key] for kind, key in KINDS.items()}
    tags["text"] = [tag.removesuffix("/text_summary") for tag in tags["text"]]
    return {kind: [tag for tag in found if not tag.startswith("_hparams_")] for kind, found in tags.items()}


def test_every_name_that_is_written_has_one_row(written):
    for kind, found in written.items():
        for name in found:
            names.find(name, kind)


def test_every_row_is_written(written):
    unwritten = [row.pattern for row in names.NAMES if not any(row.matches(name) for name in written[row.kind])]
    assert unwritten == []


def test_metrics_and_events_hold_the_same_numbers(events, workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    held = {name for line in lines for name in line} - {"step"}
    assert held == set(events.Tags()["scalars"])
    for name in held:
        expected = [(line["step"], line[name]) for line in lines if name in line]
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected], name


MODELS = {
    decoder: dict(layers=LAYERS),
    encoder: dict(layers=LAYERS, head=dict(name="masked_lm")),
    encoder_decoder: dict(encoder=LAYERS, decoder=LAYERS),
}


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.__name__.rsplit(".", 1)[-1])
def test_what_the_layers_of_any_model_tell_has_one_row(file, monkeypatch):
    with_everything(monkeypatch)
    model = config.from_dict(file.Config, dict(vocab_size=13, embed_dim=8) | MODELS[file]).make()
    tokens = jnp.zeros((3, 5), jnp.int32)

    def stats():
        params = unbox(model.init(jax.random.key(0), tokens)["params"])
        inputs = (tokens, tokens) if file is encoder_decoder else (tokens,)
        return model.apply({"params": params}, *inputs, method="hidden").aux.stats

    told = report.layer_scalars({name: np.ones(leaf.shape) for name, leaf in jax.eval_shape(stats).items()})
    found = {names.find(name).pattern for name in told}
    rows = {row.pattern for row in names.NAMES if row.kind == "scalar"}
    assert found == {row for row in rows if row.startswith(("moe/<layer>", "<sublayer>"))}


@pytest.mark.parametrize("name", ["train/nonsense", "perf/startup_lunch_seconds", "moe/layers/load_max", "loss"])
def test_a_name_that_is_in_no_row_is_refused(name):
    with pytest.raises(KeyError, match="must match one row"):
        names.find(name)


def test_no_example_of_a_row_matches_two():
    for row in names.NAMES:
        example = row.pattern
        fill = dict(phase="total", split="valid", term="second", layer="layers/3", loss="balance", expert="1",
                    device="0", path="layers/3/mlp/up", statistic="x", sublayer="layers/3/mlp",
                    process="0", activity="data", cause="data")  # fmt: skip
        for part, value in fill.items():
            example = example.replace(f"<{part}>", value)
        assert names.find(example, row.kind) is row


def test_the_table_has_a_line_a_row():
    for row in names.NAMES:
        assert names.table().count(f"| `{row.pattern}`") == 1


def test_loads_of_the_log_sum_to_one(events):
    for layer in range(2):
        loads = [events.Scalars(f"moe/layers/{layer}/load/{i}")[-1].value for i in range(3)]
        assert sum(loads) == pytest.approx(1, rel=1e-6)
        assert max(loads) == pytest.approx(events.Scalars(f"moe/layers/{layer}/load_max")[-1].value, rel=1e-6)


def test_numbers_of_other_sublayers_stand_under_their_path(events):
    assert [events.Scalars(f"layers/1/mlp/vector/{i}")[-1].value for i in range(2)] == [0, 1]


def test_the_image_of_loads_has_a_row_a_layer_and_a_column_an_expert(events):
    shown = events.Images("moe/load")
    assert [event.step for event in shown] == [4, 5]
    assert {(event.height, event.width) for event in shown} == {(2 * 16, 3 * 16)}


def test_the_history_of_loads_is_drawn_at_evaluations_and_histograms(events):
    assert [event.step for event in events.Images("moe/load_history")] == [4, 4, 5]


def test_the_alarm_is_in_the_texts_of_the_step_at_which_it_is_said(workdir):
    lines = [json.loads(line) for line in (workdir / "texts.jsonl").read_text().splitlines()]
    said = {name for line in lines if line["step"] == 1 for name in line if name.endswith("/alarm")}
    assert said == {"moe/layers/0/alarm", "moe/layers/1/alarm"}


def test_the_tables_of_an_evaluation_count_its_tokens(workdir):
    written = json.loads((workdir / "routing.json").read_text())
    assert written["step"] == 5 and list(written["layers"]) == ["layers/0", "layers/1"]
    for layer in written["layers"].values():
        together = np.array(layer["coactivation"])
        assert 2 * 8 * 29 < np.trace(together) <= 2 * 2 * 8 * 29  # top-2, of at most two batches of 8 rows of 29 tokens
        assert (together.sum(1) == 2 * together.diagonal()).all()  # each token is with one other expert
        for expert in layer["experts"]:
            assert 0 < sum(part for _, part, _ in expert["tokens"]) <= 1


def test_histograms_hold_all_values_of_the_steps_that_are_due(events):
    (event,) = events.Histograms("parameters/layers/1/mlp/up")
    assert (event.step, event.histogram_value.num) == (4, 24 * 16)
    (update,) = events.Histograms("updates/layers/1/mlp/up")
    assert 0 < update.histogram_value.max < 0.1


def test_the_trace_holds_the_chosen_steps(workdir):
    (folder,) = (workdir / "tensorboard/plugins/profile").iterdir()
    (binary,), (file,) = folder.glob("*.xplane.pb"), folder.glob("*.trace.json.gz")
    traced = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert [event["args"]["step_num"] for event in traced if event.get("name") == "train"] == ["2", "3"]
    assert binary.stat().st_size > file.stat().st_size


# What an eye can check


def test_even_loads_are_white_and_others_blue_and_red():
    image = report.load_image({"layers/10/moe/expert_load": np.ones(2), "layers/9/moe/expert_load": np.array([0.0, 2])})
    assert image.shape == (32, 32, 3)
    assert image[0, 0].tolist() == [0, 0, 255] and image[0, -1].tolist() == [255, 0, 0]
    assert (image[-1] == 255).all()


def test_a_model_without_experts_has_no_image():
    assert report.load_image({"layers/0/mlp/x": np.ones(2)}) is None
