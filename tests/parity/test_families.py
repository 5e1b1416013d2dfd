"""Published models give in our hands what transformers computes: outputs, loss, gradients, greedy continuations.

The goldens are made by `tests/parity/peer.py`, which says what is in them.
"""

import re

import jax
import numpy as np
import pytest

from arch import tree
from arch.weights import family, pretrained
from arch.weights.export import export
from tests.parity import cases, ours
from tests.parity.cases import ALL, CASES

WITH_GRADIENTS = [name for name, case in ALL.items() if case.gradients]
AT_ANY_LENGTH = [name for name in ALL if name != "llama_dynamic"]
"""All whose positions do not depend on the length of what is read: that one is ours at one length only."""
WITH_LOSS = [name for name in AT_ANY_LENGTH if cases.labels(ALL[name])]
DECODERS = [name for name in AT_ANY_LENGTH if not ALL[name].encoder]
AS_OTHERS = (
    *("bigbird_drawn", "bigbird_sequence", "bigbird_full", "bigbird_pegasus_drawn"),
    *("llama_linear", "llama_yarn", "llama_llama3", "bloom_six_heads", "mistral", "qwen3", "gpt_neox_sequential"),
    *("falcon_rw", "falcon_40b", "qwen2_moe", "qwen3_moe", "deepseek_v2", "switch", "falcon_mamba", "bamba"),
    *("long_t5_local", "zamba2"),
)
"""They decode with the caches of other cases, and pack with their masks: slow. What is their own is in the outputs."""

VARIANTS = (
    *("bigbird_drawn", "bigbird_sequence", "bigbird_full", "bigbird_pegasus_drawn", "long_t5_local"),
    *("llama_linear", "llama_yarn", "bloom_six_heads", "gpt_neox_sequential", "falcon_rw", "falcon_40b", "zamba2"),
)
"""Second forms of a family whose first one is compared, and Zamba2, whose parts are: slow altogether."""

OF_OTHER_PEERS = {"gla", "performer_pytorch", "torchscale_retnet"}
"""They have goldens of their own in tests/families."""

TOLERANCE = 3e-5
"""Of the largest value. A value here comes from some 20 sums, one behind the other, of up to 100 products, each rounded
to float32's 1.2e-7 of the partial sum on both sides: 2 * sqrt(20 * 100) * 1.2e-7 if rounding errors were independent
and nothing amplified them; norms and softmax amplify by less than 3."""
GRADIENT_TOLERANCE = 2 * TOLERANCE
"""A gradient comes from some 60 sums, those of the output and two for each of them on the way back: by the same rule
2 * sqrt(60 * 100) * 1.2e-7 times 3. Processors round differently: T5's, of unscaled logits, are 3.4e-5 on some."""


def but_slow(names, slow) -> list:
    """The names, those of the second kind marked slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def worst(actual: dict, expected: dict) -> float:
    """The largest difference of any array, in units of its largest value."""
    assert actual.keys() == expected.keys()
    return max(np.abs(actual[key] - value).max() / np.abs(value).max() for key, value in expected.items())


def difference(name: str, use: str, outputs: dict) -> float:
    """`worst` of the outputs on the padded or the packed batch."""
    arrays = ours.golden(name)[1]
    expected = {key.removeprefix(f"{use}/"): value for key, value in arrays.items() if key.startswith(f"{use}/")}
    return worst(ours.real(outputs, ours.batch(name, use)[-1]), expected)


def evaluated(name: str, params: tree.Tree | None = None) -> tuple:
    """Loss, outputs and gradients on the padded batch, of these parameters or of the imported ones."""
    return ours.evaluation(name)(ours.loaded(name)[1] if params is None else params, *ours.batch(name, "padded"))


@pytest.mark.parametrize("name", but_slow(ALL, VARIANTS))
def test_outputs_of_a_padded_batch_are_the_peer_s(name):
    assert difference(name, "padded", evaluated(name)[1]) < TOLERANCE


@pytest.mark.parametrize("name", but_slow(AT_ANY_LENGTH, AS_OTHERS))
def test_outputs_of_packed_documents_are_the_peer_s_of_each_alone(name):
    outputs = ours.forward(name)(ours.loaded(name)[1], *ours.batch(name, "packed"))
    assert difference(name, "packed", outputs) < TOLERANCE


@pytest.mark.parametrize("name", but_slow(WITH_LOSS, VARIANTS))
def test_the_loss_is_the_peer_s(name):
    assert worst({"": np.asarray(evaluated(name)[0])}, {"": ours.golden(name)[1]["loss"]}) < TOLERANCE


@pytest.mark.parametrize("name", but_slow(WITH_GRADIENTS, VARIANTS))
def test_gradients_are_the_peer_s(name):
    actual, (about, expected) = ours.published(name, evaluated(name)[2]), ours.golden(name)
    for tensor in ALL[name].gradients:
        assert worst({tensor: actual[tensor]}, {tensor: expected[f"gradient/{tensor}"]}) < GRADIENT_TOLERANCE
    theirs = dict(zip(sorted(about["tensors"]), expected["gradients"], strict=True))
    assert actual.keys() == {tensor for tensor in theirs if not re.fullmatch(ALL[name].zero, tensor)}
    digests = np.array([cases.digest(tensor, actual[tensor]) for tensor in actual])
    assert worst({name: digests}, {name: np.array([theirs[tensor] for tensor in actual])}) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("name", but_slow(DECODERS, AS_OTHERS))
def test_greedy_continuations_are_the_peer_s_token_for_token(name):
    arrays = ours.golden(name)[1]
    assert ours.greedy(name) == [arrays[f"greedy/{i}"].tolist() for i in range(len(cases.PROMPTS))]


@pytest.mark.parametrize("name", but_slow(CASES, VARIANTS))
def test_import_after_export_after_import_changes_nothing(name, tmp_path):
    found, params = ours.loaded(name)
    export(found.config, params, tmp_path / "model", family=ours.family_of(name))
    config, again = pretrained.load(tmp_path / "model")
    assert config == found.config
    first, second = tree.paths(params), tree.paths(again)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[path], second[path]) for path in first)


def test_every_published_model_type_has_a_golden():
    covered = {ours.golden(name)[0]["config"]["model_type"] for name in CASES} | OF_OTHER_PEERS
    assert covered == {name for module in family.modules().values() for name in module.MODEL_TYPES}


def test_every_golden_belongs_to_a_case():
    assert {file.stem for file in cases.GOLDENS.glob("*.npz")} == set(ALL)


@pytest.mark.parametrize("name", but_slow(ALL, VARIANTS))
def test_no_weight_can_change_in_part_unseen(name):
    params = ours.loaded(name)[1]
    unseen = []
    for path, leaf in tree.paths(params).items():
        other = np.array(leaf)
        other[..., -1] = 3 * other[..., -1] + 1
        changed = tree.from_paths(tree.paths(params) | {path: jax.device_put(other, leaf.sharding)})
        if difference(name, "padded", evaluated(name, changed)[1]) < 10 * TOLERANCE:
            unseen.append(path)
    # A shift of all keys changes no softmax, unless the keys are then rotated.
    assert [path for path in unseen if not re.search(r"attention/key(_global)?_bias$", path)] == []


def test_two_heads_cannot_change_places_unseen():
    params = tree.paths(ours.loaded("llama")[1])
    for path in ("layers/1/attention/query", "layers/0/attention/key", "layers/0/attention/value"):
        swapped = tree.from_paths(params | {path: params[path][:, ::-1]})
        assert difference("llama", "padded", evaluated("llama", swapped)[1]) > 100 * TOLERANCE
