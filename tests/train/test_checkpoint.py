"""Checkpoints survive kills, damage, full disks, donation and a change of mesh."""

import contextlib
import json
import logging
import math
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.train import checkpoint, restore, seal

SHAPES = {"embedding": (7, 5), "layers": {"0": (5, 3), "1": (2, 5, 3)}}
MIB = 1 << 20


def state_of(step, shapes=SHAPES):
    params = jax.tree.map(
        lambda shape: jax.random.normal(jax.random.key(step), shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    return {"params": params, "moments": (jax.tree.map(jnp.negative, params), ()), "step": jnp.int32(step)}


def abstract(state):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert leaf.dtype == twin.dtype
        np.testing.assert_array_equal(leaf, twin)


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.fixture
def saved(tmp_path):
    """A folder with the states of steps 10, 20 and 30."""
    with checkpoint.Checkpoints(tmp_path / "checkpoints", checkpoint.Config(keep_latest=3)) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, state_of(step), extra={"position": step}, metrics={"eval/valid/loss": 1 / step})
    return tmp_path / "checkpoints"


def test_a_restored_state_equals_the_saved_one(saved):
    with checkpoint.Checkpoints(saved) as checkpoints:
        assert checkpoints.latest_step() == 30
        state, extra = checkpoints.restore(abstract(state_of(0)))
    assert_same(state, state_of(30))
    assert extra == {"position": 30}


def test_extra_is_read_without_the_arrays(saved):
    with checkpoint.Checkpoints(saved) as checkpoints:
        assert checkpoints.read_extra(20) == {"position": 20}


def test_an_empty_folder_has_no_latest_step(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == -1


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 3, state), donate_argnums=0)
    shapes = {"large": (401, 509)}
    with checkpoint.Checkpoints(tmp_path, checkpoint.Config(keep_latest=5)) as checkpoints:
        for step in range(1, 6):
            state = state_of(step, shapes)
            checkpoints.save(step, state, extra={})
            jax.block_until_ready(overwrite(state))
    for step in range(1, 6):
        restored, _ = restore.restore_step(tmp_path / str(step), abstract(state_of(0, shapes)))
        assert_same(restored, state_of(step, shapes))


def test_saving_a_step_again_leaves_it_as_it_is(saved):
    with checkpoint.Checkpoints(saved) as checkpoints:
        checkpoints.save(30, state_of(1), extra={"position": 1})
    assert_same(restore.restore_step(saved / "30", abstract(state_of(0)))[0], state_of(30))


def test_extra_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(1, state_of(1), extra={"array": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_retention_is_the_union_of_latest_best_and_every_so_many():
    scores = {10: 5.0, 20: 2.0, 30: 3.0, 40: 2.0, 50: math.inf, 60: 9.0, 70: 8.0}
    config = checkpoint.Config(keep_latest=1, keep_best=1, keep_every_steps=0)
    assert checkpoint.kept_steps(scores, config) == {40, 70}
    assert checkpoint.kept_steps(scores, config.replace(keep_best=3)) == {20, 30, 40, 70}
    assert checkpoint.kept_steps(scores, config.replace(keep_best=0, keep_latest=2)) == {60, 70}
    assert checkpoint.kept_steps(scores, config.replace(keep_every_steps=30)) == {30, 40, 60, 70}
    assert checkpoint.kept_steps({50: math.inf, 60: math.inf}, config) == {60}


def test_retention_remembers_the_best_across_a_restart(tmp_path):
    values = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 5: 4.0, 6: 5.0}
    for part in ((1, 2, 3), (4, 5, 6)):
        with checkpoint.Checkpoints(tmp_path) as checkpoints:
            for step in part:
                metrics = {"eval/valid/loss": values[step]}
                checkpoints.save(step, state_of(step), extra={}, metrics=metrics)
    assert steps_in(tmp_path) == [2, 5, 6]


def test_leftovers_of_a_cut_save_are_removed_and_nothing_else(saved):
    (saved / "40.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    (saved / "notes").mkdir()
    (saved / "draft.tmp").write_text("mine")
    with checkpoint.Checkpoints(saved) as checkpoints:
        checkpoints.save(50, state_of(50), extra={}, wait=True)
    assert not (saved / "40.orbax-checkpoint-tmp").exists()
    assert (saved / "notes").is_dir() and (saved / "draft.tmp").read_text() == "mine"


@pytest.mark.parametrize("harm", [flip_bit, truncate, os.remove])
def test_harm_to_any_file_of_a_step_is_found_and_the_file_named(saved, harm):
    step = saved / "30"
    files = json.loads((step / seal.NAME).read_text())
    assert {path.split("/")[0] for path in files} == {"state", "extra"}
    for name in files:
        content = (step / name).read_bytes()
        harm(step / name)
        assert name in seal.damage(step)
        (step / name).write_bytes(content)
    assert seal.damage(step) == ""
    truncate(step / seal.NAME)
    assert seal.NAME in seal.damage(step)


def largest_file(step):
    return max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_damaged_newest_step_is_reported_once_and_the_one_before_is_used(saved, caplog, capfd):
    file = largest_file(saved / "30")
    flip_bit(file)
    with caplog.at_level(logging.WARNING), checkpoint.Checkpoints(saved) as checkpoints:
        state, extra = checkpoints.restore(abstract(state_of(0)))
    assert_same(state, state_of(20))
    assert extra == {"position": 20}
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(saved / "30") in warning and file.name in warning and "CRC-32" in warning and "step 20" in warning
    assert "Traceback" not in capfd.readouterr().err


def test_a_damaged_step_is_moved_aside_so_that_its_number_can_be_saved_again(saved):
    truncate(largest_file(saved / "30"))
    with checkpoint.Checkpoints(saved) as checkpoints:
        checkpoints.restore(abstract(state_of(0)))
        assert checkpoints.latest_step() == 20
        checkpoints.save(30, state_of(31), extra={}, wait=True)
        assert_same(checkpoints.restore(abstract(state_of(0)))[0], state_of(31))
    assert (saved / "30.unreadable").is_dir()


def test_when_all_steps_are_damaged_the_error_names_them_each_time(saved):
    for step in (10, 20, 30):
        truncate(largest_file(saved / str(step)))
    for _ in range(2):
        with checkpoint.Checkpoints(saved) as checkpoints:
            with pytest.raises(checkpoint.CheckpointError, match=f"no checkpoint in {saved} can be read.*30.*20.*10"):
                checkpoints.restore(abstract(state_of(0)))


def test_a_state_of_another_shape_is_refused_with_the_leaves_named(saved):
    shapes = {"embedding": (7, 11), "layers": {"0": (5, 3), "2": (2, 5, 3)}}
    with checkpoint.Checkpoints(saved) as checkpoints:
        with pytest.raises(ValueError, match="does not fit the model") as error:
            checkpoints.restore(abstract(state_of(0, shapes)))
    assert "params/layers/2 is not saved" in str(error.value)
    assert "params/layers/1 is saved but not part of the model" in str(error.value)
    assert "and 1 more" in str(error.value)
    assert steps_in(saved) == [10, 20, 30]


def test_a_changed_dtype_is_refused(saved):
    other = abstract(state_of(0)) | {"step": jax.ShapeDtypeStruct((), jnp.float32)}
    with pytest.raises(ValueError, match=r"step is int32\[\], not float32\[\]"):
        restore.restore_step(saved / "30", other)


@pytest.mark.parametrize("below", [".", "checkpoints", "checkpoints/20"])
def test_params_are_found_in_a_workdir_a_checkpoints_folder_or_a_step(saved, below):
    params, extra = checkpoint.restore_params(saved.parent / below)
    step = 20 if below.endswith("20") else 30
    assert_same(params, state_of(step)["params"])
    assert extra == {"position": step}


def test_params_can_be_restored_into_a_given_structure(saved):
    params, _ = checkpoint.restore_params(saved, abstract(state_of(0)["params"]))
    assert_same(params, state_of(30)["params"])


def test_restoring_params_changes_nothing_on_disk(saved):
    (saved / "40.orbax-checkpoint-tmp").mkdir()
    flip_bit(largest_file(saved / "30"))
    before = sorted(saved.rglob("*"))
    assert checkpoint.restore_params(saved)[1] == {"position": 20}
    assert sorted(saved.rglob("*")) == before


def test_a_path_without_checkpoints_is_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=f"no checkpoint at {tmp_path}/nowhere"):
        checkpoint.restore_params(tmp_path / "nowhere")


def test_a_newer_format_is_refused(saved):
    record = saved / "30" / "extra" / "metadata"
    record.write_text(record.read_text().replace('"format_version": 1', '"format_version": 2'))
    seal.seal(saved / "30", ("state", "extra"))
    with pytest.raises(ValueError, match="format_version=2 .* must be at most 1"):
        checkpoint.restore_params(saved)


def test_an_unwritable_directory_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(checkpoint.CheckpointError, match=f"{tmp_path}/file/checkpoints cannot be written"):
        checkpoint.Checkpoints(tmp_path / "file" / "checkpoints")


@contextlib.contextmanager
def full_disk(path):
    path.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    try:
        yield "No space left on device"
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def short_files(path):
    path.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("limit", [full_disk, short_files])
def test_a_failed_write_is_one_message_and_the_checkpoint_before_stays_usable(tmp_path, limit, capfd, caplog):
    small, large = state_of(1), {"params": {"w": jax.random.normal(jax.random.key(0), (1031, 1031))}}
    with limit(tmp_path / "disk") as reason:
        directory = tmp_path / "disk" / "checkpoints"
        with checkpoint.Checkpoints(directory) as checkpoints:
            checkpoints.save(1, small, extra={}, wait=True)
            for step in (2, 3):
                with pytest.raises(checkpoint.CheckpointError) as error:
                    checkpoints.save(step, large, extra={}, wait=True)
                expected = f"checkpoint {directory}/{step} could not be written: {reason}; "
                assert str(error.value) == expected + f"the newest complete one is {directory}/1"
            assert [path.name for path in directory.iterdir()] == ["1"]
            assert_same(checkpoints.restore(abstract(small))[0], small)
            checkpoints.save(4, small, extra={}, wait=True)
            assert steps_in(directory) == [1, 4]
    assert "Traceback" not in capfd.readouterr().err and not caplog.records


def python(code, *args, **env):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)} | env
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


RESHARD = """
    import sys, jax, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from arch.train import checkpoint

    def on(mesh, spec):
        mesh = jax.make_mesh(mesh, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        return NamedSharding(mesh, spec)

    value = np.arange(16 * 6, dtype=np.float32).reshape(16, 6)
    with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
        saved = {"params": {"w": jax.device_put(value, on((8, 1, 1), P("data")))}}
        checkpoints.save(1, saved, extra={})
        wanted = on((2, 2, 2), P(("data", "fsdp"), "tensor"))
        abstract = {"params": {"w": jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=wanted)}}
        w = checkpoints.restore(abstract)[0]["params"]["w"]
    assert w.sharding == wanted and {s.data.shape for s in w.addressable_shards} == {(4, 3)}
    np.testing.assert_array_equal(w, value)
    print("same")
"""


def test_a_state_saved_on_one_mesh_is_restored_onto_another(tmp_path):
    process = python(RESHARD, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert process.communicate(timeout=100)[0] == "same\n" and process.returncode == 0


SAVE_FOREVER = """
    import itertools, sys, jax, numpy as np
    from arch.train import checkpoint

    def state(step):
        return {"params": {str(i): jax.numpy.full((211, 97), step + i, "float32") for i in range(11)}}

    checkpoints = checkpoint.Checkpoints(sys.argv[1])
    step = checkpoints.latest_step()
    if step >= 0:
        restored, extra = checkpoints.restore(jax.eval_shape(lambda: state(0)))
        step = extra["step"]
        jax.tree.map(np.testing.assert_array_equal, restored, state(step))
    print(step, flush=True)
    for step in itertools.count(step + 1):
        checkpoints.save(step, state(step), extra={"step": step}, metrics={"eval/valid/loss": step % 5})
        print(step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_the_newest_complete_checkpoint_usable(tmp_path):
    delays = random.Random(0)
    newest = -1
    for _ in range(5):
        process = python(SAVE_FOREVER, tmp_path)
        assert int(process.stdout.readline()) == newest
        assert [int(process.stdout.readline()) for _ in range(3)] == [newest + 1, newest + 2, newest + 3]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delays.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        newest = max(steps_in(tmp_path), default=-1)
        assert newest < 0 or seal.damage(tmp_path / str(newest)) == ""
    assert newest > 5  # each process saved two steps at least before it was killed


TWO_PROCESSES = """
    import pathlib, sys, jax
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]))
    import numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from arch.train import checkpoint

    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    value = np.arange(6 * 4, dtype=np.float32).reshape(6, 4)

    def state(step):
        sharding = NamedSharding(mesh, P("data", "tensor"))
        return {"params": {"w": jax.make_array_from_callback(value.shape, sharding, lambda i: step * value[i])}}

    with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), extra={"step": step}, wait=True)
        if jax.process_index() == 0:
            pathlib.Path(sys.argv[1], "3", "checksums.json").unlink()
        multihost_utils.sync_global_devices("damaged")
        wanted = NamedSharding(mesh, P("tensor", "data"))
        abstract = {"params": {"w": jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=wanted)}}
        restored, extra = checkpoints.restore(abstract)
        for shard in restored["params"]["w"].addressable_shards:
            np.testing.assert_array_equal(shard.data, 2 * value[shard.index])
    print(extra["step"])
"""


def test_two_processes_write_one_checkpoint_and_agree_on_what_to_restore(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [python(TWO_PROCESSES, tmp_path, port, index, **flags) for index in (0, 1)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [output.splitlines()[-1] for output in outputs] == ["2", "2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3.unreadable"]


def test_a_save_that_fails_last_is_reported_by_close(tmp_path):
    with short_files(tmp_path / "disk") as reason:
        with pytest.raises(checkpoint.CheckpointError, match=f"{reason}; there is no other"):
            with checkpoint.Checkpoints(tmp_path / "disk") as checkpoints:
                checkpoints.save(1, {"w": jax.random.normal(jax.random.key(0), (1031, 1031))}, extra={})
