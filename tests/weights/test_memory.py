"""Loading holds one tensor at a time beside what it loads into, measured in a process of its own."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from arch.weights import family, target
from arch.weights.export import export
from tests.weights import tiny

MIB = 2**20
SIZES = {"embed_dim": 512, "hidden_dim": 1024, "num_layers": 12, "vocab_size": 24 * 1024, "tie_embeddings": True}
SLACK = 12 * MIB
"""For what is not tensors: traces, headers, the allocator. A second copy of the largest tensor would be 48 MiB."""

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads /proc/self/status")

SCRIPT = """
import json, sys
import jax, optax
from arch import tree
from arch.sharding import mesh as meshes
from arch.train import state
from arch.weights import family, pretrained, target
from arch.weights.export import export
from tests.weights import tiny

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))

family.modules = lambda: {"tiny": tiny}
found = pretrained.open(sys.argv[1])
wanted = target.canonical(found.config)
if sys.argv[2] == "scanned":
    mesh = meshes.make(meshes.Config(), jax.devices()[:1])
    wanted = state.plan(found.config.make(), optax.sgd(0.1), mesh).abstract.params
jax.block_until_ready(jax.numpy.zeros(3))
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
params = jax.block_until_ready(pretrained.read(found, wanted))
peak = resident("VmHWM") - before
export(found.config, params, sys.argv[3] + "/first", dtype="bfloat16")  # compiles
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
export(found.config, params, sys.argv[3] + "/second", dtype="bfloat16")
print(json.dumps({
    "peak": peak,
    "export_peak": resident("VmHWM") - before,
    "params": 4 * tree.count(params),
    "largest": max(4 * leaf.size for leaf in jax.tree.leaves(target.canonical(found.config))),
}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of 275 MB of tensors in several shards."""
    config, rng = tiny.compose(**SIZES), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), target.canonical(config))
    folder = tmp_path_factory.mktemp("large") / "large"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "modules", lambda: {"tiny": tiny})
        export(config, params, folder, max_shard_bytes=64 * MIB)
    return folder


@pytest.fixture(scope="module", params=["canonical", pytest.param("scanned", marks=pytest.mark.slow)])
def measured(request, large, tmp_path_factory):
    """Bytes of a process that loads the checkpoint and exports it again in bfloat16."""
    command = [sys.executable, "-c", SCRIPT, large, request.param, tmp_path_factory.mktemp("again")]
    done = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_checkpoint_is_large_and_sharded(large, measured):
    assert len(list(large.glob("*.safetensors"))) == 5
    assert measured["params"] > 250 * MIB


def test_loading_peaks_under_the_parameters_and_the_largest_tensor(measured):
    assert measured["params"] < measured["peak"] < measured["params"] + measured["largest"] + SLACK


def test_exporting_peaks_under_two_copies_of_the_largest_tensor(measured):
    assert measured["export_peak"] < 2 * measured["largest"] + SLACK
