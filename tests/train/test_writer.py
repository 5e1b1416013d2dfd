"""Metrics are readable by scripts and by TensorBoard, also after a kill and a resume."""

import io
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from arch.train import writer
from arch.train.histograms import histogram


def lines(workdir, name="metrics.jsonl"):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / name).read_text().splitlines()]


def events(workdir):
    accumulator = EventAccumulator(str(workdir / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalars(workdir, name):
    return [(event.step, event.value) for event in events(workdir).Scalars(name)]


def test_scalars_are_one_json_object_a_line(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(3, {"train/loss": jnp.float32(0.5), "count": 7})
        w.write_scalars(4, {"train/loss": np.float64(0.25)})
    assert lines(tmp_path) == [{"step": 3, "train/loss": 0.5, "count": 7}, {"step": 4, "train/loss": 0.25}]


def test_scalars_are_read_back_by_tensorboard(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(3, {"train/loss": 0.5})
        w.write_scalars(4, {"train/loss": 0.25})
    assert scalars(tmp_path, "train/loss") == [(3, 0.5), (4, 0.25)]


def test_a_float32_keeps_all_its_bits(tmp_path):
    value = np.nextafter(np.float32(0.1), np.float32(1))
    with writer.Writer(tmp_path) as w:
        w.write_scalars(1, {"x": jnp.asarray(value)})
    assert np.float32(lines(tmp_path)[0]["x"]) == value


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(1, {"a": float("nan"), "b": jnp.inf, "c": 1.0})
    assert lines(tmp_path) == [{"step": 1, "a": None, "b": None, "c": 1.0}]


def test_numbers_that_are_not_finite_are_written_without_a_warning(tmp_path, caplog):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(1, {"a": float("nan"), "b": float("inf")})
    assert np.isnan(scalars(tmp_path, "a")[0][1]) and scalars(tmp_path, "b") == [(1, np.inf)]
    assert not [record for record in caplog.records if record.name.startswith("tensorboardX")]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(1, {"x": 1.0})
        assert lines(tmp_path) == [{"step": 1, "x": 1.0}]


def test_events_are_on_disk_after_flush(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(1, {"x": 1.0})
        w.flush()
        assert scalars(tmp_path, "x") == [(1, 1.0)]


def test_texts_are_written_to_both(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_texts(5, {"sample": "déjà\nvu"})
    assert lines(tmp_path, "texts.jsonl") == [{"step": 5, "sample": "déjà\nvu"}]
    (event,) = events(tmp_path).Tensors("sample/text_summary")
    assert event.step == 5 and event.tensor_proto.string_val[0].decode() == "déjà\nvu"


def test_histograms_are_read_back_by_tensorboard(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_histograms(2, {"weights": histogram(jnp.arange(11.0))})
    (event,) = events(tmp_path).Histograms("weights")
    assert (event.step, event.histogram_value.num, event.histogram_value.sum) == (2, 11, 55)
    assert (event.histogram_value.min, event.histogram_value.max) == (0, 10)
    limits, counts = event.histogram_value.bucket_limit, event.histogram_value.bucket
    assert sum(counts) == 11 and counts[0] == 0 and limits[0] < 0
    assert [count for limit, count in zip(limits, counts, strict=True) if limit == 10] == [5]  # 6 to 10


def test_images_are_read_back_by_tensorboard(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(3, 5, 3)).astype(np.uint8)
    with writer.Writer(tmp_path) as w:
        w.write_images(2, {"picture": pixels})
    (event,) = events(tmp_path).Images("picture")
    assert (event.step, event.height, event.width) == (2, 3, 5)
    np.testing.assert_array_equal(Image.open(io.BytesIO(event.encoded_image_string)), pixels)


def test_hyperparameters_are_read_back_by_their_path(tmp_path):
    with writer.Writer(tmp_path) as w:
        hparams = {"seed": 3, "mesh": {"data": 2}, "name": "demo", "dims": (1, 2), "tied": True}
        w.write_hparams(hparams, ("eval/valid/loss",))
    tags = events(tmp_path).summary_metadata
    start = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert found == {"seed": 3.0, "mesh.data": 2.0, "name": "demo", "dims": "(1, 2)", "tied": True}
    experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG].plugin_data.content)
    assert [info.name.tag for info in experiment.metric_infos] == ["eval/valid/loss"]


def killed(workdir, steps):
    """Writes steps, then leaves both files as a kill in the middle of a write does."""
    w = writer.Writer(workdir)
    for step in steps:
        w.write_scalars(step, {"x": float(step)})
        w.write_texts(step, {"t": str(step)})
    w.close()
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "x"')
    (newest,) = (workdir / "tensorboard").iterdir()
    os.truncate(newest, newest.stat().st_size - 5)


def test_a_resumed_run_shows_no_point_twice(tmp_path):
    killed(tmp_path, range(1, 8))
    with writer.Writer(tmp_path, resume_step=4) as w:
        for step in range(5, 10):
            w.write_scalars(step, {"x": 10.0 * step})
            w.write_texts(step, {"t": str(10 * step)})
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0), (7, 70.0), (8, 80.0), (9, 90.0)]
    assert [(line["step"], line["x"]) for line in lines(tmp_path)] == expected
    assert [(line["step"], float(line["t"])) for line in lines(tmp_path, "texts.jsonl")] == expected
    assert scalars(tmp_path, "x") == expected
    texts = events(tmp_path).Tensors("t/text_summary")
    assert [(e.step, float(e.tensor_proto.string_val[0])) for e in texts] == expected


def test_a_run_that_starts_afresh_drops_all_that_was_written(tmp_path):
    with writer.Writer(tmp_path) as w:
        w.write_scalars(0, {"x": 1.0})
    with writer.Writer(tmp_path) as w:
        w.write_scalars(0, {"x": 2.0})
    assert lines(tmp_path) == [{"step": 0, "x": 2.0}]
    assert scalars(tmp_path, "x") == [(0, 2.0)]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    with writer.Writer(tmp_path / "run", enabled=False) as w:
        w.write_scalars(1, {"x": 1.0})
        w.write_texts(1, {"t": "t"})
        w.write_histograms(1, {"h": histogram(jnp.ones(3))})
        w.write_images(1, {"i": np.zeros((2, 2, 3), np.uint8)})
        w.write_hparams({"seed": 1})
        w.flush()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    with writer.Writer(tmp_path) as w:
        file = w._lines["metrics.jsonl"]
        whole = os.dup(file.fileno())
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), file.fileno())
        with pytest.raises(OSError, match="No space left on device.*metrics.jsonl"):
            w.write_scalars(1, {"x": 1.0})
        os.dup2(whole, file.fileno())
        os.close(whole)
