"""Bad input to run.py: exit status 2 and one line that names field, value and rule, before anything compiles."""

import json
import pathlib
import shutil

import pytest

from arch.train import restore, seal
from tests.commands import ROOT, Server, run_process

CONFIG = f"--config={ROOT / 'tests' / 'tiny_config.py'}"
LAYER0, LAYER1 = "model.layers.pattern[0]", "model.layers.pattern[1]"
SECONDS = 10.0
"""In which a command with bad input is to end."""


@pytest.fixture(scope="module")
def command():
    """Runs a command line of run.py, on 8 devices."""
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of good and bad input."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text("".join(f"{i} and {i} make {2 * i}.\n" for i in range(1500)))
    (folder / "empty.txt").write_text("")
    (folder / "empty_folder").mkdir()
    (folder / "latin1.txt").write_bytes("caf\xe9 ".encode("latin1") * 5000)
    (folder / "syntax.py").write_text("x = 1\ndef get_config(:\n    pass\n")
    (folder / "raises.py").write_text("def get_config(arg=''):\n    return 1 / 0\n")
    (folder / "without.py").write_text("x = 1\n")
    (folder / "returns_none.py").write_text("def get_config(arg=''):\n    pass\n")
    (folder / "list_leaf.py").write_text(
        "from arch.train import experiment\n\n\ndef get_config(arg=''):\n    return experiment.config_dict(seed=[1])\n"
    )
    return folder


@pytest.fixture(scope="module")
def trained(command, files):
    """A run of one step of the MLP alone."""
    workdir = files / "trained"
    done = command(
        f"{CONFIG}:mlp", f"--workdir={workdir}", f"--config.data.path={files}/text.txt", "--config.total_steps=1",
        "--config.sample_prompt=", "--jax_disable_most_optimizations",
    )  # fmt: skip
    assert done.status == 0, done.error
    return workdir


# What is wrong: (arguments, what the message must hold). `{files}` is the folder of the fixture.
COMMAND_LINE = {
    "no config": (["--config="], "--config"),
    "config left out": ([], "--config is missing"),
    "config file missing": (["--config={files}/absent.py"], "there is no file '{files}/absent.py'"),
    "config is a folder": (["--config={files}"], "there is no file '{files}'"),
    "config with a syntax error": (["--config={files}/syntax.py"], "syntax.py, line 2"),
    "config that raises": (["--config={files}/raises.py"], "raises.py, line 2: ZeroDivisionError"),
    "config without get_config": (["--config={files}/without.py"], "must define get_config"),
    "get_config returns nothing": (["--config={files}/returns_none.py"], "must define get_config"),
    "a list in a config": (["--config={files}/list_leaf.py"], "seed=[1] must be of type int"),
    "option typo": ([CONFIG + ":repeets=2"], "option 'repeets'", "did you mean 'repeats'?"),
    "option of another type": ([CONFIG + ":repeats=two"], "repeats='two' must be of type int"),
    "flag typo": ([CONFIG, "--modle=eval"], "'modle'", "mode"),
    "unknown mode": ([CONFIG, "--mode=evaluate"], "--mode=evaluate", "train|eval|generate"),
    "stray argument": ([CONFIG, "eval"], "argument 'eval' is no flag"),
    "negative max_new_tokens": (["--mode=generate", "--max_new_tokens=-1"], "--max_new_tokens=-1", "non-negative"),
    "negative temperature": (["--mode=generate", "--temperature=-0.5"], "--temperature=-0.5", "non-negative"),
    "temperature in words": (["--mode=generate", "--temperature=hot"], "--temperature=hot", "float"),
    "a prompt that is not UTF-8": (["--mode=generate", "--prompt=a\udcff"], "--prompt=['a\\udcff']: must be UTF-8"),
    "JAX flag of a wrong type": ([CONFIG, "--jax_debug_nans=perhaps"], "--jax_debug_nans=perhaps"),
}

OVERRIDES = {
    # Typos at each level.
    "seeed=1": ("seeed", "did you mean 'seed'?"),
    "model.embd_dim=3": ("model.embd_dim", "did you mean 'embed_dim'?"),
    "model.layers.patern=3": ("model.layers.patern", "did you mean 'pattern'?"),
    f"{LAYER0}.sublayerz=1": (f"{LAYER0}.sublayerz", "did you mean 'sublayers'?"),
    f"{LAYER0}.sublayers[0].inner_dimm=1": (f"{LAYER0}.sublayers[0].inner_dimm", "did you mean 'inner_dim'?"),
    f"{LAYER1}.sublayers[0].position.thetta=1": ("position.thetta", "did you mean 'theta'?"),
    "zzz=1": ("zzz is no field", "total_steps"),
    "model.layers.pattern[7].dropout=0.1": ("model.layers.pattern[7]", "has 2 entries"),
    "seed[0]=1": ("seed[0]", "seed is no tuple"),
    "seed.x=1": ("seed.x",),
    ".seed=1": ("'.seed'", "no path"),
    # Names.
    "model.name=decodr": ("model.name='decodr'", "did you mean 'decoder'?"),
    f"{LAYER0}.sublayers[1].name=mo": (f"{LAYER0}.sublayers[1].name='mo'", "did you mean 'moe'?"),
    f"{LAYER0}.sublayers[1].name=gated_mlp": (f"{LAYER0}.sublayers[1].", "arch.ffns.gated_mlp.Config", "hidden_dim"),
    # Types.
    "batch_size=abc": ("config.batch_size=abc", "int"),
    "model.embed_dim=1.5": ("config.model.embed_dim=1.5", "int"),
    "model.tie_embeddings=7": ("config.model.tie_embeddings=7", "of type bool"),
    "optimizer.learning_rate=fast": ("config.optimizer.learning_rate=fast", "float"),
    "model.layers.pattern=3": ("model.layers.pattern[0]=3", "mapping"),
    "mesh=4": ("config.mesh=4", "dict"),
    "data.suffixes=3": ("data.suffixes[0]=3", "str"),
    # Ranges.
    "total_steps=0": ("total_steps=0 must be at least 1",),
    "batch_size=-8": ("batch_size=-8 must be at least 1",),
    "seed=-1": ("seed=-1 must be at least 0",),
    "optimizer.b1=1.5": ("optimizer.b1=1.5", "at most 1"),
    "optimizer.learning_rate=nan": ("optimizer.learning_rate=nan must be above 0",),
    "optimizer.learning_rate=inf": ("optimizer.learning_rate=inf must be finite",),
    "loss_scale.initial=inf": ("loss_scale.initial=inf must be above 0 and at most",),
    "eval_every_epochs=inf": ("eval_every_epochs=inf must be finite",),
    "sample.top_p=0": ("top_p=0.0 must be above 0",),
    "sample.temperature=-1": ("sample.temperature=-1.0 must be at least 0",),
    "data.valid_fraction=0.9": ("data.valid_fraction=0.9", "at most 0.5"),
    "model.dtype=float8": ("model.dtype='float8' must be one of 'float32'",),
    "model.layers.remat=some": ("model.layers.remat='some' must be one of",),
    f"{LAYER0}.placement=mid": (f"{LAYER0}.placement='mid' must be one of",),
    "loss.label_smoothing=2": ("loss.label_smoothing=2.0 must be at least 0 and at most 1",),
    "optimizer.kind=adam": ("optimizer.kind='adam' must be one of 'adamw'",),
    "optimizer.warmup_percent=101": ("optimizer.warmup_percent=101.0 must be at least 0 and at most 100",),
    "optimizer.rate_factors=(('(', 1.0),)": ("optimizer: rate_factors holds '('", "regular expression"),
    # Two units for one length.
    "total_tokens=500": ("total_steps=6 and total_tokens=500: only one may be set",),
    "eval_every_percent=50": ("eval_every_steps=3 and eval_every_percent=50.0: only one may be set",),
    # Sizes that do not divide.
    f"{LAYER1}.sublayers[0].num_kv_heads=3": (f"{LAYER1}.sublayers[0]: num_heads=4 must be a multiple of",),
    f"{LAYER0}.sublayers[1].top_k=4": (f"{LAYER0}.sublayers[1]", "top_k=4 must be at most num_experts=3"),
    "micro_batches=3": ("batch_size=8 must be a multiple of micro_batches=3",),
    "batch_size=12": ("batch_size=12", "mesh.data * mesh.stage * mesh.fsdp * mesh.expert = 8"),
    "micro_batches=2": ("batch_size=8 / micro_batches=2 = 4", "mesh.data * mesh.stage * mesh.fsdp * mesh.expert = 8"),
    "mesh.stage=8": ("model.layers: repeats=1 must be a multiple of mesh.stage=8",),
    "mesh.data=3": ("mesh.data=3", "number of devices, 8"),
    "mesh.fsdp=-1": ("data, fsdp: only one axis may be -1",),
    "mesh.tensor=0": ("tensor=0 must be at least 1",),
    # Data.
    "data.path=/absent": ("data.path='/absent'", "there is no such path"),
    "data.path={files}/empty.txt": ("empty.txt' must hold text",),
    "data.path={files}/empty_folder": ("empty_folder' must hold text",),
    "data.path={files}/latin1.txt": ("latin1.txt' must be UTF-8 text", "byte 3"),
    "seq_len=100000": ("seq_len=100000 must be below the split's",),
    "seq_len=100000000": ("seq_len=100000000", "must be at most", "micro_batches splits it"),
    "model.vocab_size=256": ("model.vocab_size=256 must be at least 257, the tokenizer's size",),
    "data.tokenizer.vocab_size=300": ("data.tokenizer", "vocab_size=300 must be left out with kind='byte'"),
    "data.tokenizer.kind=bpe": ("data.tokenizer", "vocab_size=0 and path='' with kind='bpe': one of"),
    # Where to start.
    "init_from=/absent": ("there is no checkpoint at /absent",),
    "resume=/absent": ("there is no checkpoint at /absent",),
}


CHANGES = {
    "model.embed_dim=24": "model.embed_dim: 12 -> 24",
    "model.layers.repeats=2": "model.layers.repeats: 1 -> 2",
    "model.layers.pattern[0].sublayers[0].hidden_dim=5": "model.layers.pattern[0].sublayers[0].hidden_dim: 11 -> 5",
    "seed=3": "seed: 0 -> 3",
    "batch_size=16": "batch_size: 8 -> 16",
    "seq_len=16": "seq_len: 32 -> 16",
    "data.max_bytes=20000": "data.max_bytes: 0 -> 20000",
}


def ways(workdir, files):
    """The arguments that train, evaluate or sample a run of the MLP, or start another run from it."""
    config = [f"{CONFIG}:mlp", f"--config.data.path={files}/text.txt"]
    there, new = f"--workdir={workdir}", f"--workdir={workdir}-new"
    return {
        "train": [*config, there],
        "eval": [*config, there, "--mode=eval"],
        "generate": [there, "--mode=generate"],
        "init_from": [*config, new, f"--config.init_from={workdir}"],
        "resume": [*config, new, f"--config.resume={workdir}"],
    }


def check_refusal(done, *parts, workdir=None):
    """It ended with status 2, in time, with one line that holds all `parts`, and left no trace of a run."""
    assert done.status == 2 and done.out == "", done
    assert done.error.startswith("error: ") and done.error.count("\n") == 1, done.error
    assert [part for part in parts if part not in done.error] == [], done.error
    assert done.seconds < SECONDS
    assert workdir is None or not list(workdir.glob("*.json*"))  # neither config nor versions nor metrics


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_a_wrong_command_line_is_refused(command, files, tmp_path, case):
    arguments, *parts = COMMAND_LINE[case]
    workdir = tmp_path / "run"
    done = command(f"--workdir={workdir}", *(argument.format(files=files) for argument in arguments))
    check_refusal(done, *(part.format(files=files) for part in parts))
    assert not workdir.exists()


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_wrong_override_is_refused(command, files, tmp_path, override):
    wrong = override.format(files=files)
    done = command(CONFIG, f"--workdir={tmp_path}", f"--config.data.path={files}/text.txt", f"--config.{wrong}")
    check_refusal(done, *OVERRIDES[override], workdir=tmp_path)


def test_a_missing_workdir_flag_is_refused(command):
    check_refusal(command(CONFIG), "--workdir is missing")


def test_a_workdir_that_cannot_be_made_is_refused(command, files):
    workdir = files / "text.txt" / "run"  # root may write anywhere, but not below a file
    check_refusal(command(CONFIG, f"--workdir={workdir}"), str(workdir), "workdir cannot be made")


def test_two_places_to_start_from_are_refused(command, tmp_path):
    done = command(CONFIG, f"--workdir={tmp_path}", "--config.init_from=a", "--config.resume=b")
    check_refusal(done, "init_from='a'", "resume='b'", workdir=tmp_path)


@pytest.mark.parametrize("mode", ["eval", "generate"])
def test_a_run_that_never_began_has_nothing_to_read(command, tmp_path, mode):
    done = command(CONFIG, f"--workdir={tmp_path}", f"--mode={mode}")
    check_refusal(done, f"there is no checkpoint at {tmp_path}", workdir=tmp_path)


@pytest.mark.parametrize("change", CHANGES)
def test_going_on_with_another_config_is_refused(command, files, trained, change):
    done = command(*ways(trained, files)["train"], f"--config.{change}")
    check_refusal(done, str(trained), CHANGES[change])


@pytest.mark.parametrize("mode", ["eval", "generate"])
def test_reading_a_run_with_another_config_is_refused(command, files, trained, mode):
    done = command(*ways(trained, files)["train"], f"--mode={mode}", "--config.model.embed_dim=24")
    check_refusal(done, str(trained), "model.embed_dim: 12 -> 24")


def test_parameters_of_another_architecture_are_refused(command, files, trained, tmp_path):
    new = tmp_path / "new"
    done = command(*ways(new, files)["train"], f"--config.init_from={trained}", "--config.model.embed_dim=24")
    check_refusal(done, str(trained), "embedding/table is float32[257, 12], not float32[257, 24]", workdir=new)


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the trained run whose parts a test may spoil."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "damaged"))


@pytest.mark.parametrize("way", ["train", "eval", "generate", "init_from", "resume"])
def test_a_corrupt_checkpoint_is_refused(command, files, damaged, way):
    chunks = (file for file in (damaged / "checkpoints").rglob("*") if file.is_file())
    chunk = max(chunks, key=lambda file: file.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-7])
    done = command(*ways(damaged, files)[way])
    check_refusal(done, str(damaged / "checkpoints"), "is damaged", "bytes")


def test_a_checkpoint_without_its_table_is_refused(command, files, damaged):
    (damaged / "checkpoints" / "1" / "checksums.json").unlink()
    check_refusal(command(*ways(damaged, files)["generate"]), "is damaged: checksums.json is missing")


@pytest.mark.parametrize("part", [("format_version",), ("extra", "config_format_version")], ids=lambda part: part[-1])
def test_a_checkpoint_of_a_newer_format_is_refused(command, files, damaged, part):
    step = damaged / "checkpoints" / "1"
    record = json.loads((step / "extra" / "metadata").read_text())
    (record["extra"] if part[0] == "extra" else record)[part[-1]] = 99
    (step / "extra" / "metadata").write_text(json.dumps(record))
    seal.seal(step, (restore.STATE, restore.EXTRA))
    done = command(*ways(damaged, files)["generate"])
    check_refusal(done, f"{part[-1]}=99", "must be at most 1", "a newer arch wrote")


@pytest.mark.parametrize("way", ["train", "eval"])
def test_a_config_of_a_newer_format_is_refused(command, files, damaged, way):
    file = damaged / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    check_refusal(command(*ways(damaged, files)[way]), str(file), "format_version=99", "must be at most 1")


def test_a_damaged_config_is_refused(command, files, damaged):
    (damaged / "config.json").write_text("{")
    done = command(*ways(damaged, files)["train"])
    check_refusal(done, str(damaged / "config.json"), "no config that arch has written")


def test_damaged_tokens_are_refused(command, files, damaged):
    file = damaged / "data" / "train.tokens.npy"
    file.write_bytes(file.read_bytes()[:-100])
    check_refusal(command(*ways(damaged, files)["train"]), str(damaged / "data"), "delete it to tokenise again")


def test_an_empty_prompt_is_fine(command, files, trained):
    done = command(*ways(trained, files)["generate"], "--prompt=", "--print_ids", "--max_new_tokens=2")
    assert done.status == 0 and done.error == ""
    assert all(0 <= int(word) < 257 for word in done.out.split())


PROCESSES = {
    "typo": ([CONFIG, "--config.model.embd_dim=3"], "did you mean 'embed_dim'?"),
    "file": (["--config=absent.py"], "there is no file 'absent.py'"),
    "sizes": ([CONFIG, f"--config.{LAYER1}.sublayers[0].num_kv_heads=3"], "must be a multiple of num_kv_heads=3"),
    "data": ([CONFIG, "--config.data.path=/absent"], "data.path='/absent'"),
    "checkpoint": (["--mode=generate"], "there is no checkpoint"),
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c != "data")) for c in PROCESSES])
def test_a_process_with_bad_input_ends_in_time(tmp_path, case):
    arguments, part = PROCESSES[case]
    check_refusal(run_process(f"--workdir={tmp_path}", *arguments), part)
