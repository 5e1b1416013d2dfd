"""What is refused before anything compiles, and that preparing a run twice reads its text once."""

import types

import jax
import pytest

from arch import config
from arch.train import experiment, provenance, setup
from tests import tiny_config

FREE = {"model.layers.remat": "full", "model.dtype": "bfloat16", "total_steps": 7, "optimizer.b1": 0.5}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"{i} and {i} make {2 * i}.\n" for i in range(1500)))
    return file


def configured(text="", **changes):
    """The tiny MLP's config on a text, with leaves changed by path."""

    def plain(edge):
        if hasattr(edge, "items"):
            return {key: plain(leaf) for key, leaf in edge.items()}
        return tuple(map(plain, edge)) if isinstance(edge, tuple) else edge

    tree = plain(tiny_config.get_config("mlp"))
    for path, value in ({"data.path": str(text)} | changes).items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node[key]
        node[last] = value
    return experiment.from_dict(tree)


def test_preparing_a_run_compiles_no_model(text, tmp_path):
    seconds = []

    def listen(name, duration, **_):
        seconds.append(duration if "backend_compile" in name else 0.0)

    jax.monitoring.register_event_duration_secs_listener(listen)
    setup.prepare(configured(text), tmp_path)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert sum(seconds) < 0.5  # the key of the random numbers, no more


def test_a_prepared_run_has_tokens_but_no_config_yet(text, tmp_path):
    ready = setup.prepare(configured(text), tmp_path)
    assert (tmp_path / "data" / "meta.json").exists()
    assert provenance.read_config(tmp_path) is None
    assert len(ready.token_bytes) == 257 and ready.token_bytes.sum() == 256


def test_a_second_start_does_not_need_the_text(text, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text.read_bytes())
    first = setup.prepare(configured(copy), tmp_path / "run")
    copy.unlink()
    assert setup.prepare(configured(copy), tmp_path / "run").data.fingerprint == first.data.fingerprint


@pytest.mark.parametrize("path", FREE)
def test_a_run_may_change_what_decides_neither_parameters_nor_data(tmp_path, path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    provenance.write(tmp_path, config.to_dict(configured()), {})
    setup.check_same(configured(**{path: FREE[path]}), tmp_path)


def test_a_run_may_change_how_devices_see_each_others_tokens(tmp_path):
    def run(**more):
        attention = dict(name="attention", num_heads=2, head_dim=2, **more)
        return configured(**{"model.layers": dict(pattern=(dict(sublayers=(attention,)),))})

    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    provenance.write(tmp_path, config.to_dict(run()), {})
    setup.check_same(run(split="heads"), tmp_path)


def test_a_refused_run_names_each_changed_leaf(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    provenance.write(tmp_path, config.to_dict(configured()), {})
    with pytest.raises(ValueError, match="seed: 0 -> 1") as caught:
        setup.check_same(configured(seed=1, **{"model.embed_dim": 24}), tmp_path)
    assert "model.embed_dim: 12 -> 24" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_run_without_a_checkpoint_may_still_change(text, tmp_path):
    setup.prepare(configured(text), tmp_path)
    provenance.write(tmp_path, config.to_dict(configured(text)), {})
    other = setup.prepare(configured(text, seed=1, **{"data.piece_chars": 100}), tmp_path)
    assert other.data.meta["config"]["piece_chars"] == 100


def test_offloading_needs_pinned_host_memory():
    def device(*kinds):
        memories = [types.SimpleNamespace(kind=kind) for kind in kinds]
        return types.SimpleNamespace(device_kind="abacus", addressable_memories=lambda: memories)

    for field in ("model.layers.remat='offload'", "optimizer.offload='host'"):
        with pytest.raises(ValueError, match=f"{field} must run on devices with pinned .* abacus has none"):
            setup._check_offload.__wrapped__(field, device("device"))
        setup._check_offload.__wrapped__(field, device("device", "pinned_host"))


def test_more_samples_than_ids_count_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match="total_steps=1000000000 times batch_size=8 must be at most 2147483647"):
        setup.prepare(configured(text, total_steps=10**9), tmp_path)


HYENA = {"model.layers": dict(pattern=(dict(sublayers=(dict(name="hyena", max_length=32),)),))}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seq_len": 31}, "seq_len=31 must be a multiple of mesh.context=4"),
        ({"seq_len": 32} | HYENA, "mesh.context=4 must be 1 with 'hyena', which needs all tokens of a row"),
    ],
    ids=["rows", "mixer"],
)
def test_rows_that_cannot_be_split_are_refused(text, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        setup.prepare(configured(text, **changes, **{"mesh.context": 4}), tmp_path)


def attention(**changes):
    """A layer of it, as a config's leaf."""
    sublayer = dict(name="attention", num_heads=4, head_dim=2) | changes
    return {"model.layers": dict(pattern=(dict(sublayers=(sublayer,)),), repeats=2)}


def test_a_sample_longer_than_the_positions_known_is_refused(text, tmp_path):
    changes = {"model.position": dict(name="learned", length=32), "sample": dict(max_new_tokens=40)}
    changes |= {"seq_len": 16, "sample_prompt": "ROMEO:"}
    message = "sample_prompt='ROMEO:' with sample: max_new_tokens=40 must be at most .*: 32 positions are known"
    with pytest.raises(ValueError, match=message):
        setup.prepare(configured(text, **changes), tmp_path)


@pytest.mark.parametrize("context", [2, 4])
def test_rows_of_causal_attention_may_be_split(text, tmp_path, context):
    changes = {"mesh.context": context, "seq_len": 16} | attention()
    assert setup.prepare(configured(text, **changes), tmp_path).mesh.shape["context"] == context


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 12} | attention(), r"seq_len=12 must be a multiple of 2 \* mesh.context = 8"),
        (
            {"seq_len": 16} | attention(split="heads", num_kv_heads=2),
            r"num_kv_heads=2 must be a multiple of mesh.tensor \* mesh.context = 4",
        ),
    ],
)
def test_what_layers_cannot_split_is_refused_before_the_step_compiles(text, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        setup.prepare(configured(text, **changes, **{"mesh.context": 4}), tmp_path)
