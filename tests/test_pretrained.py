"""configs/pretrained.py opens a published model in every mode of run.py; what cannot be opened ends in one line."""

import json
import re

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from arch import tree
from arch.data import foreign_tokenizer, tokenizer
from arch.decode import generate
from arch.families import bert, llama
from arch.train import verify
from arch.weights import pretrained
from arch.weights.export import export
from arch.weights.target import canonical
from tests.commands import ROOT, Server
from tests.test_bad_input import check_refusal

CONFIG = f"--config={ROOT / 'configs' / 'pretrained.py'}"
TEXT = "".join(f"The number {i} is twice {i / 2}.\n" for i in range(300))
NEW = 5
SMALL = ("--config.batch_size=8", "--config.seq_len=16", "--config.total_steps=2", "--config.optimizer.warmup_steps=0")
QUIET = "--jax_disable_most_optimizations=True"


def byte_level(roles):
    """A tokenizer of one token a byte and two special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_tokens([AddedToken("<end>", special=True), AddedToken("<user>", special=True)])
    return foreign_tokenizer.Foreign(made, roles)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny LLaMA as a published folder, with a byte-level tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("published") / "tiny"
    config = llama.compose(vocab_size=259, embed_dim=12, num_layers=2, num_heads=2, hidden_dim=11, tie_embeddings=True)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape, np.float32), canonical(config))
    export(config, params, folder, family="llama")
    template = "{% for m in messages %}<user>{{ m.content }}{% endfor %}\n"
    byte_level(foreign_tokenizer.Roles(eos_token="<end>", chat_template=template)).save(folder)
    (folder.parent / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def command():
    """Runs a command line of run.py, on 8 devices."""
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def ask(command, published):
    """Runs a command on the published model; its result, which must be a success."""

    def run(workdir, *arguments, init_from=published):
        done = command(CONFIG, f"--config.init_from={init_from}", f"--workdir={workdir}", QUIET, *arguments)
        assert done.status == 0, done.error
        return done

    return run


def continued(published, prompts):
    """What the library makes of prompts of ids."""
    cfg, params = pretrained.load(published)
    how = generate.Config(max_new_tokens=NEW, temperature=0.0)
    stop = tokenizer.read_pretrained(published).stop
    return generate.generate(cfg.make(), params, prompts, how, key=jax.random.key(0), stop=stop)


def test_prompts_are_continued_with_the_model_s_own_tokenizer(ask, published, tmp_path):
    words = tokenizer.read_pretrained(published)
    new = continued(published, [words.encode("The number "), words.encode("7")])
    flags = ("--mode=generate", f"--max_new_tokens={NEW}", "--prompt=The number ", "--prompt=7")
    assert ask(tmp_path, *flags, "--print_ids").out == "".join(" ".join(map(str, row)) + "\n" for row in new)
    assert ask(tmp_path, *flags).out == f"The number {words.decode(new[0])}\n7{words.decode(new[1])}\n"


def test_a_chat_is_worded_by_the_template(ask, published, tmp_path):
    words = tokenizer.read_pretrained(published)
    user, end = 257, 256
    (new,) = continued(published, [[user, *words.encode("Hi")]])
    done = ask(tmp_path, "--mode=generate", "--chat", f"--max_new_tokens={NEW}", "--prompt=Hi", "--print_ids")
    assert done.out == " ".join(map(str, new)) + "\n" and words.stop == (end,)


def test_evaluation_covers_all_of_the_text(ask, published, tmp_path):
    text = published.parent / "text.txt"
    done = ask(tmp_path, "--mode=eval", f"--config.data.path={text}", *SMALL)
    printed = json.loads(done.out)
    assert printed["step"] == 0
    nats = printed["eval/valid/bits_per_byte"] * np.log(2)
    assert nats == pytest.approx(printed["eval/valid/loss"], rel=1e-3)  # a byte a token
    assert not (tmp_path / "data").exists()


def test_upcycled_it_has_the_same_loss(ask, command, published, tmp_path):
    text = f"--config.data.path={published.parent / 'text.txt'}"
    flags = ("--mode=eval", text, *SMALL)
    dense = json.loads(ask(tmp_path, *flags).out)["eval/valid/loss"]
    sparse = command(f"{CONFIG}:experts=3", f"--config.init_from={published}", f"--workdir={tmp_path}", QUIET, *flags)
    assert sparse.status == 0 and "the ffns of layers 0, 1 are their experts" in sparse.error, sparse.error
    assert json.loads(sparse.out)["eval/valid/loss"] == pytest.approx(dense, rel=1e-5)


@pytest.fixture(scope="module")
def tuned(ask, published, tmp_path_factory):
    """A workdir with two steps of fine-tuning, in bfloat16."""
    workdir = tmp_path_factory.mktemp("tuned")
    flags = (f"--config.data.path={published.parent / 'text.txt'}", "--config.data.piece_chars=500")
    done = ask(workdir, *flags, *SMALL, "--config.model.dtype=bfloat16", "--config.optimizer.learning_rate=0.01")
    assert f"started from the parameters of {published}" in done.error
    return workdir


def test_a_tuned_run_holds_the_whole_model(tuned):
    held = json.loads((tuned / "config.json").read_text())["config"]["model"]
    assert (held["embed_dim"], held["layers"]["repeats"], held["dtype"]) == (12, 2, "bfloat16")


def test_a_tuned_run_is_sampled_without_the_published_model(command, tuned):
    done = command(f"--workdir={tuned}", "--mode=generate", "--prompt=The ", "--temperature=0", "--max_new_tokens=3")
    assert done.status == 0 and done.out.startswith("The "), done.error


def test_a_tuned_run_is_evaluated_on_its_own_split(ask, published, tuned):
    flags = (f"--config.data.path={published.parent / 'text.txt'}", "--config.data.piece_chars=500")
    done = ask(tuned, "--mode=eval", *flags, *SMALL, "--config.model.dtype=bfloat16")
    assert json.loads(done.out)["step"] == 2


def test_a_tuned_run_is_exported_with_its_tokenizer(command, published, tuned, tmp_path):
    folder = tmp_path / "exported"
    done = command(f"--workdir={tuned}", "--mode=export", f"--export_to={folder}")
    assert done.status == 0, done.error
    before, after = (tree.paths(pretrained.load(path)[1]) for path in (published, folder))
    assert before.keys() == after.keys() and not np.array_equal(before["norm/scale"], after["norm/scale"])
    words = tokenizer.read_pretrained(folder)
    assert words.roles == tokenizer.read_pretrained(published).roles and words.encode("The") == [51, 71, 68]
    assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": 256}


def test_what_was_published_is_exported_unchanged(ask, published, tmp_path):
    ask(tmp_path, "--mode=export", f"--export_to={tmp_path / 'again'}")
    before, after = (tree.paths(pretrained.load(path)[1]) for path in (published, tmp_path / "again"))
    assert all(np.array_equal(before[path], after[path]) for path in before | after)


def test_an_override_that_changes_what_is_computed_is_told(ask, tmp_path):
    theta = "--config.model.layers.pattern[0].sublayers[0].position.theta"
    done = ask(tmp_path, "--mode=generate", "--max_new_tokens=1", "--prompt=x", f"{theta}=500")
    assert re.search(r"the model is not quite that of .*theta: 10000.0 -> 500.0", done.error)


@pytest.fixture
def bad(published, tmp_path):
    """A folder for PATHs that cannot be opened."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("The number 7 is odd, and no weights.")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "config.json").write_text((published / "config.json").read_text())
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "gemma9"}')
    (tmp_path / "unknown" / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes())
    return tmp_path


PATHS = {
    "absent": ("there is no such file or folder",),
    "absent.gguf": ("there is no such file or folder",),
    "empty": ("config.json is missing",),
    "text.gguf": ("magic=b'The ' must be b'GGUF'",),
    "pickle": ("pytorch_model.bin is a pickle",),
    "unknown": ("model_type='gemma9' must be one of", "llama"),
}


@pytest.mark.parametrize("mode", ["train", "eval", "generate", "export"])
@pytest.mark.parametrize("path", PATHS)
def test_a_bad_path_is_refused_before_anything_starts(command, bad, path, mode):
    flags = (f"--workdir={bad / 'run'}", f"--mode={mode}", f"--export_to={bad / 'out'}")
    done = command(CONFIG, f"--config.init_from={bad / path}", *flags)
    check_refusal(done, f"init_from='{bad / path}'", *PATHS[path], workdir=bad / "run")
    assert not (bad / "out").exists()


def test_without_a_path_nothing_runs(command, tmp_path):
    done = command(CONFIG, f"--workdir={tmp_path}", "--mode=train")
    check_refusal(done, "tokenizer.path='' must name a published model: --config.init_from=PATH", workdir=tmp_path)


@pytest.mark.parametrize("mode", ["train", "eval", "generate"])
def test_an_encoder_has_no_next_token(command, tmp_path, mode):
    config = bert.compose(embed_dim=12, num_layers=1, num_heads=2, vocab_size=259, length=32)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), canonical(config))
    export(config, params, tmp_path / "bert", family="bert")
    byte_level(foreign_tokenizer.Roles(eos_token="<end>")).save(tmp_path / "bert")
    done = command(CONFIG, f"--config.init_from={tmp_path / 'bert'}", f"--workdir={tmp_path / 'run'}", f"--mode={mode}")
    check_refusal(done, "model.name='encoder' must be 'decoder' ", workdir=tmp_path / "run")


def has_peer():
    """Whether there is an interpreter with transformers."""
    try:
        return bool(verify.interpreter())
    except ValueError:
        return False


def test_verify_compares_with_transformers(ask, tmp_path):
    if not has_peer():
        pytest.skip(f"needs transformers: `make peers`, or {verify.ENVIRONMENT}=/path/to/python")
    flags = ("--mode=export", f"--export_to={tmp_path / 'out'}")
    for done in (ask(tmp_path, *flags, "--verify"), ask(tmp_path, "--mode=generate", "--max_new_tokens=1", "--verify")):
        found = re.search(r"^largest difference of a logit from transformers': (\S+)$", done.out, re.MULTILINE)
        assert 0 < float(found[1]) < 1e-4


REFUSED = {
    "a width": (("--config.model.embed_dim=14",), "does not fit the model"),
    "verify without a peer": (("--verify",), "`make peers` builds it"),
    "a folder with files": (("--mode=export", f"--export_to={ROOT}"), "must be a new or an empty folder"),
    "no folder": (("--mode=export",), "--export_to is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_with_it_is_refused(command, published, tmp_path, case):
    flags, reason = REFUSED[case]
    if case == "verify without a peer" and has_peer():
        pytest.skip("transformers is at hand")
    where = (CONFIG, f"--config.init_from={published}", f"--workdir={tmp_path / 'run'}", "--mode=generate")
    check_refusal(command(*where, *flags), reason, workdir=tmp_path / "run")


def test_a_chat_needs_a_template(command, tmp_path):
    run = (f"--config={ROOT / 'tests' / 'tiny_config.py'}:mlp", f"--workdir={tmp_path / 'run'}", QUIET)
    (tmp_path / "text.txt").write_text(TEXT)
    flags = ("--config.total_steps=1", "--config.sample_prompt=", f"--config.data.path={tmp_path / 'text.txt'}")
    assert command(*run, *flags).status == 0
    done = command(f"--workdir={tmp_path / 'run'}", "--mode=generate", "--chat", "--prompt=x")
    check_refusal(done, "--chat needs a chat model, published or trained")
