"""Layers that lie on several stages train as on one device: loss and gradients, for each family and mixture of axes."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import config, tree
from arch.families import t5
from arch.layers.weight import axes, trainable, unbox
from arch.models import decoder
from arch.ops.routing.replay import RECORDED
from arch.sharding import mesh as meshes
from arch.sharding import pipeline
from arch.tasks import next_token, span_corruption
from arch.train import evaluation, experiment, stages
from arch.train.describe import describe
from arch.train.gradient import gradient_of
from tests.contracts.sublayers import jit, random_like
from tests.train import tiny

ROWS, TOKENS, EMBED, VOCAB = 8, 20, 16, 40
HEADS = dict(num_heads=4, num_kv_heads=2, head_dim=2)
FULL, WINDOW = dict(name="attention", **HEADS), dict(name="attention", window=5, **HEADS)
STRIDED = dict(name="attention", pattern=dict(name="strided", stride=5), block=4, **HEADS)
MLP = dict(name="gated_mlp", hidden_dim=24)
MOE = dict(name="moe", num_experts=4, top_k=2, hidden_dim=8, bias_rate=0.1)
MAMBA = dict(name="mamba", inner_dim=24, state_dim=3)
FAMILIES = {
    "dense": ((FULL, MLP),),
    "mixture": ((FULL, MOE),),
    "replayed": ((FULL, MOE | dict(router=dict(name="replay"))),),
    "sparse": ((STRIDED, MLP), (WINDOW, MLP)),
    "state space": ((MAMBA,),),
    "hybrid": ((MAMBA, MOE), (FULL, MLP)),
}


def config_of(family, remat="full", **how):
    """A model of four periods, behind one layer of another kind; of the pair two stacks."""
    if family == "pair":
        widths = dict(vocab_size=VOCAB, embed_dim=EMBED, hidden_dim=24, num_heads=4, head_dim=2)
        cfg = t5.compose(num_layers=5, buckets=8, max_distance=11, dropout=0.0, **widths)
        passed = dict(remat=remat, pipeline=pipeline.Config(**how))
        return cfg.replace(encoder=cfg.encoder.replace(**passed), decoder=cfg.decoder.replace(**passed))
    pattern = tuple(dict(sublayers=sublayers) for sublayers in FAMILIES[family])
    prefix = (dict(sublayers=(FULL,)),)
    layers = dict(prefix=prefix, pattern=pattern, repeats=4, remat=remat, pipeline=how)
    return config.from_dict(decoder.Config, dict(vocab_size=VOCAB, embed_dim=EMBED, layers=layers))


@functools.cache
def model(family):
    """(axes of the parameters, the parameters, what is trained)."""
    module = config_of(family).make()
    boxes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return axes(boxes), random_like(unbox(boxes)), trainable(boxes)


def batch(family):
    """Rows of two documents each, of the pair ragged ones; rows differ, so that none may be taken for another."""
    rng = np.random.default_rng(0)
    ids = rng.integers(VOCAB, size=(3, ROWS, TOKENS), dtype=np.int32)
    fields = dict(tokens=ids[0], targets=ids[1], weights=rng.random((ROWS, TOKENS)).astype(np.float32))
    places, first = np.broadcast_to(np.arange(TOKENS, dtype=np.int32), ids[0].shape), 3 + np.arange(ROWS)[:, None]
    if family == "pair":
        valid = dict(valid=places < TOKENS - first // 2, source_valid=places < TOKENS - first)
        return fields | valid | dict(source=ids[2], positions=places, source_positions=places)
    if family == "replayed":  # of the mixtures of layers 1 to 4
        routes = rng.permuted(np.broadcast_to(np.arange(4, dtype=np.int32), (ROWS, TOKENS, 5, 4)), axis=3)[..., :2]
        routes[:, :, 0] = -1
        fields |= dict(zip(RECORDED, (routes, (routes >= 0).astype(np.float32))))
    positions = np.where(places < first, places, places - first)
    return fields | dict(segment_ids=1 + (places >= first).astype(np.int32), positions=positions)


def gradient(family, parts=1, **how):
    """The function (params, batch, key) -> (gradients, log), compiled."""
    task = span_corruption.Config() if family == "pair" else next_token.Config()
    module = config_of(family, **how).make()
    return jit(gradient_of(module, model(family)[2], task=task, micro_batches=parts))


@functools.cache
def alone(family):
    """(gradients, log) on one device."""
    return gradient(family)(model(family)[1], batch(family), jax.random.key(0))


def assert_as_alone(family, sizes, parts=1, **how):
    names, params, _ = model(family)
    sizes = dict.fromkeys(meshes.AXES, 1) | sizes
    mesh = meshes.make(meshes.Config(**sizes), jax.devices()[: math.prod(sizes.values())])
    place = lambda axes, leaf: jax.device_put(leaf, meshes.sharding(axes, leaf.shape, mesh))
    with jax.set_mesh(mesh):
        placed = jax.tree.map(place, names, params, is_leaf=lambda axes: isinstance(axes, tuple))
        given = placed, meshes.global_batch(batch(family), mesh), jax.random.key(0)
        program = gradient(family, parts, **how).lower(*given).compile()
        gradients, log = program(*given)
    expected, expected_log = alone(family)
    np.testing.assert_allclose(log["loss"], expected_log["loss"], rtol=1e-5)
    for name in ("losses", "stats"):
        assert log[name].keys() == expected_log[name].keys()
        for path, value in expected_log[name].items():
            np.testing.assert_allclose(log[name][path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    for path, value in tree.paths(expected).items():
        np.testing.assert_allclose(tree.paths(gradients)[path], value, atol=3e-5 * np.max(np.abs(value)), err_msg=path)
    assert_lean(program.as_text(), mesh, params)


def assert_lean(text, mesh, params):
    """Stages send to the next one, and nobody gathers the weights of all layers, or of all of a stage."""
    pairs = re.findall(r"\{(\d+),(\d+)\}", "".join(re.findall(r"source_target_pairs=\{(.*?\})\}", text)))
    moves = [np.not_equal(*np.transpose(np.unravel_index(np.array(pair, int), mesh.axis_sizes))) for pair in pairs]
    assert "stage" in [mesh.axis_names[np.argmax(move)] for move in moves if move.sum() == 1]
    found = re.findall(r"= \(?\w+\[([\d,]+)\]\S* all-gather(?:-start)?\(", text)
    gathered = {tuple(map(int, shape.split(","))) for shape in found}
    stacked = [leaf.shape for path, leaf in tree.paths(params).items() if "scan_" in path and leaf.ndim > 2]
    of_stage = [(shape[0] // mesh.shape["stage"], *shape[1:]) for shape in stacked]
    whole = gathered & {*stacked, *of_stage}
    assert stacked and not whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "sizes", "how"),
    [
        ("dense", dict(stage=2, fsdp=2), dict(rounds=2, micro_batches=4)),
        ("mixture", dict(stage=2, expert=2), dict(rounds=2, micro_batches=4)),
        ("dense", dict(stage=4), dict(micro_batches=8)),
        ("dense", dict(data=2, stage=2, tensor=2), dict(rounds=2)),
        ("dense", dict(stage=2, fsdp=2, tensor=2), dict(remat="none")),
        ("mixture", dict(data=2, stage=2, tensor=2), dict(rounds=2, remat="dots")),
        ("sparse", dict(stage=2, fsdp=2), dict(micro_batches=4)),
        ("state space", dict(stage=4, data=2), dict()),
        ("state space", dict(stage=2, fsdp=2, context=2), dict()),
        ("hybrid", dict(stage=2, context=2), dict(rounds=2)),
        ("pair", dict(stage=2, fsdp=2), dict(micro_batches=2)),
        ("pair", dict(data=2, stage=2, tensor=2), dict(rounds=2)),
        ("mixture", dict(stage=2, fsdp=2, expert=2), dict(schedule="1f1b")),
        ("hybrid", dict(stage=4), dict(schedule="1f1b", micro_batches=8, remat="none")),
        ("dense", dict(data=2, stage=2, tensor=2), dict(schedule="1f1b", micro_batches=4, remat="dots")),
        ("state space", dict(stage=2, context=2), dict(schedule="1f1b")),
        ("replayed", dict(stage=2, expert=2), dict(schedule="1f1b")),
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_one_device(family, sizes, how):
    assert_as_alone(family, sizes, **how)


@pytest.mark.slow
def test_parts_of_a_step_that_follow_each_other_pass_the_stages_one_by_one():
    assert_as_alone("mixture", dict(stage=2, fsdp=2), parts=2, rounds=2)


@pytest.mark.parametrize(("noise", "parts"), [(0.0, 1), pytest.param(0.3, 2, marks=pytest.mark.slow)])
def test_1f1b_is_as_if_its_micro_batches_followed_each_other(noise, parts):
    """On one device, with the same noise: rows are dealt out there, and here cut."""
    pattern = (dict(sublayers=(dict(name="mlp", hidden_dim=6, activation="relu"),), dropout=noise),)
    fields = dict(vocab_size=11, embed_dim=4, layers=dict(pattern=pattern, repeats=2), dropout=noise, final_norm=False)
    cfg = config.from_dict(decoder.Config, fields)
    boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params, rng, key = random_like(unbox(boxes)), np.random.default_rng(0), jax.random.key(1)
    ids = rng.integers(11, size=(2, 4, 5), dtype=np.int32)
    rows = dict(tokens=ids[0], targets=ids[1], weights=rng.random((4, 5)).astype(np.float32))
    rows["positions"] = np.broadcast_to(np.arange(5, dtype=np.int32), (4, 5))
    dealt = jax.tree.map(lambda leaf: leaf[np.array([0, 2, 1, 3])], rows)
    expected = jit(gradient_of(cfg.make(), trainable(boxes), micro_batches=parts))(params, dealt, key)
    staged = cfg.replace(layers=cfg.layers.replace(pipeline=pipeline.Config(schedule="1f1b"))).make()
    with jax.set_mesh(meshes.make(meshes.Config(data=1, stage=2), jax.devices()[:2])):
        found = jit(gradient_of(staged, trainable(boxes)))(params, rows, key)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), found, expected)


def curve(text, workdir, total, **changes):
    """The losses of a run up to so many steps."""
    layers = dict(pattern=(dict(sublayers=(tiny.ATTENTION, tiny.MLP)),), repeats=4)
    every = {"model.layers": layers, "total_steps": total, "optimizer.rate_shape": "constant"}
    cfg = tiny.config(text, eval_every_steps=0, checkpoint_every_steps=0, **every, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "evaluate", lambda *_, **__: {})
        tiny.train(cfg, workdir, jax.devices()[: max(1, cfg.mesh.data * cfg.mesh.stage)])
    return tiny.losses(workdir)


@pytest.mark.slow
def test_a_run_with_stages_goes_on_without_and_the_other_way_round(quick, text, tmp_path):
    """Its parameters and optimizer are the same arrays, whichever stages they lie on."""
    one, two = {"mesh.data": 1}, {"mesh.data": 1, "mesh.stage": 2, "model.layers.pipeline": dict(rounds=2)}
    whole = curve(text, tmp_path / "one", 4, **one)
    assert len(whole) == 4
    for first, then in ((two, one), (one, two)):
        workdir = tmp_path / f"{first['mesh.data']}{len(first)}"
        curve(text, workdir, 2, **first)
        np.testing.assert_allclose(curve(text, workdir, 4, **then), whole, rtol=2e-5)


@pytest.mark.slow
def test_a_run_goes_on_under_the_other_schedule_and_back(quick, text, tmp_path):
    how = lambda schedule: {"mesh.data": 1, "mesh.stage": 2, "model.layers.pipeline": dict(schedule=schedule)}
    whole = curve(text, tmp_path / "gpipe", 6, **how("gpipe"))
    for total, schedule in ((2, "gpipe"), (4, "1f1b"), (6, "gpipe")):
        found = curve(text, tmp_path / "both", total, **how(schedule))
    np.testing.assert_allclose(found, whole, rtol=2e-5)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (dict(stage=3), "model.layers: repeats=4 must be a multiple of mesh.stage=3 times pipeline.rounds=1"),
        (dict(stage=2, rows=6), "model.layers: 6 rows of a batch must be a multiple of 4"),
    ],
)
def test_layers_and_rows_that_do_not_divide_are_refused(changes, rule):
    mesh = meshes.abstract(meshes.Config(data=1, stage=changes["stage"], fsdp=2), 2 * changes["stage"])
    with pytest.raises(ValueError, match=re.escape(rule)):
        stages.must_divide(config_of("dense"), changes.get("rows", 24), mesh)


def test_1f1b_of_two_stacks_is_refused():
    mesh = meshes.abstract(meshes.Config(data=1, stage=2), 2)
    rule = "model.encoder.pipeline.schedule='1f1b' must be 'gpipe' in a model of 2 stacks"
    with pytest.raises(ValueError, match=rule):
        stages.must_divide(config_of("pair", schedule="1f1b"), 8, mesh)


def test_samples_of_text_are_refused_on_stages():
    mesh = meshes.abstract(meshes.Config(data=1, stage=2), 2)
    with pytest.raises(ValueError, match="mesh.stage=2 must be 1 with sample_prompt='a': a token passes all layers"):
        stages.must_be_one(mesh, "sample_prompt='a'")


def test_the_bubble_is_described():
    fields = tiny.fields("hybrid") | dict(mesh=dict(data=1, stage=2))
    fields["model"] = fields["model"] | dict(layers=tiny.LAYERS["hybrid"] | dict(pipeline=dict(micro_batches=8)))
    assert "| layers | GPipe | 2 layers a part | 8 | 11.1% |" in describe(experiment.from_dict(fields), {})


def test_1f1b_idles_as_gpipe_does():
    mesh = meshes.abstract(meshes.Config(data=1, stage=2), 2)
    found = stages.table(config_of("hybrid", schedule="1f1b", micro_batches=8), mesh)
    assert "| layers | 1F1B | 4 layers a part | 8 | 11.1% |" in found
