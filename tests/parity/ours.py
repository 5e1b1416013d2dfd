"""Our side of the parity tests: a golden, the checkpoint it is about, and what our model makes of the same input."""

import dataclasses
import functools
import json
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from arch import tree
from arch.decode import generate as decoding
from arch.layers.contract import Context, positions_of
from arch.models import encoder
from arch.ops import loss as losses
from arch.weights import pretrained
from arch.weights.target import canonical
from tests.parity import cases
from tests.parity.cases import CASES

Arrays = dict[str, Any]


@functools.cache
def golden(name: str) -> tuple[dict, Arrays]:
    """What the golden of a case is about, and its arrays."""
    return read_golden(cases.GOLDENS / f"{name}.npz")


def read_golden(file: pathlib.Path) -> tuple[dict, Arrays]:
    """What a golden is about, and its arrays."""
    with np.load(file) as opened:
        arrays = dict(opened)
    return json.loads(str(arrays.pop("about"))), arrays


def write_checkpoint(name: str, folder: str) -> None:
    """The published checkpoint of a case."""
    about, _ = golden(name)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(about["config"], file)
    tensors = {tensor: cases.weights(tensor, tuple(shape)) for tensor, shape in about["tensors"].items()}
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})


@functools.cache
def loaded(name: str) -> tuple[pretrained.Published, tree.Tree]:
    """The checkpoint of a case through the importer, and our parameters."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(name, folder)
        found = pretrained.open(folder)
        return found, pretrained.read(found, canonical(found.config))


def family_of(name: str) -> str:
    """The file of `arch/families` that reads the checkpoint of a case."""
    return loaded(name)[0].family.__name__.rsplit(".", 1)[-1]


def padded(name: str) -> tuple[jax.Array, Context]:
    """The ids and the context of the padded batch."""
    read = cases.inputs(CASES[name], "padded", cases.LENGTHS)
    return _batch(name, read, lambda valid: {"valid": valid})


def packed(name: str) -> tuple[jax.Array, Context]:
    """The ids and the context of one row with all documents and some padding; of a row each where a head pools rows."""
    read = cases.inputs(CASES[name], "packed", cases.DOCUMENTS)
    if pools(name):
        return _batch(name, read, lambda valid: {"valid": valid})
    read["segments"] = [np.full(length, i + 1) for i, length in enumerate(cases.DOCUMENTS)]
    read["places"] = [np.arange(length) for length in cases.DOCUMENTS]
    row = {key: np.concatenate([*rows, [0, 0]])[None] for key, rows in read.items()}
    tokens, context = _batch(name, row, lambda valid: {})
    more = {"positions": jnp.asarray(row["places"], jnp.int32), "segment_ids": jnp.asarray(row["segments"], jnp.int32)}
    return tokens, dataclasses.replace(context, **more)


def pools(name: str) -> bool:
    """Whether the model makes one vector of each row."""
    return any("pooler" in leaf for leaf in tree.paths(loaded(name)[1]))


def _batch(name, read, more) -> tuple[jax.Array, Context]:
    tokens = jnp.asarray(cases.padded(read["input_ids"], 0), jnp.int32)
    valid = jnp.asarray(cases.padded([np.ones_like(row) for row in read["input_ids"]], 0), bool)
    config, types = loaded(name)[0].config, None
    if isinstance(config, encoder.Config) and config.token_types:
        types = jnp.asarray(cases.padded(read["token_type_ids"], 0), jnp.int32)
    return tokens, Context(positions=positions_of(tokens), token_types=types, **more(valid))


@functools.cache
def forward(name: str):
    """The jitted function (params, tokens, context) -> outputs by transformers' names, a row a token or a row a row."""
    model, case = loaded(name)[0].config.make(), CASES[name]

    def outputs(params, tokens, context):
        out = model.apply({"params": params}, tokens, context)
        beside = {"pooler_output": "pooled", "seq_relationship_logits": "next_sentence"}
        found = {theirs: out.shared[ours] for theirs, ours in beside.items() if ours in out.shared}
        match case.model.removeprefix("Bert"):
            case "Model":
                return {"last_hidden_state": out.x} | found
            case "ForPreTraining":
                return {"prediction_logits": out.x} | found
            case "ForQuestionAnswering":
                return {"start_logits": out.x[..., 0], "end_logits": out.x[..., 1]}
            case _:
                return {"logits": out.x}

    return jax.jit(outputs)


def real(outputs: Arrays, context: Context) -> dict[str, np.ndarray]:
    """The outputs as a golden has them: those with a value a token without padding, flat."""
    mask = np.asarray(context.real())
    return {k: np.asarray(v)[mask] if v.shape[:2] == mask.shape else np.asarray(v) for k, v in outputs.items()}


def objective(name: str):
    """The function (params, tokens, context) -> loss of the padded batch."""
    labels = {key: jnp.asarray(value, jnp.int32) for key, value in cases.labels(CASES[name]).items()}
    run, mean = forward(name), losses.mean_cross_entropy

    def loss(params, tokens, context):
        out = run(params, tokens, context)
        match CASES[name].model.removeprefix("Bert"):
            case "ForPreTraining":
                ask = labels["labels"], out["seq_relationship_logits"], labels["next_sentence_label"]
                return losses.pretraining(out["prediction_logits"], *ask)
            case "ForQuestionAnswering":
                places = jnp.stack([out["start_logits"], out["end_logits"]], -1)
                return losses.span(places, labels["start_positions"], labels["end_positions"])
            case model if "CausalLM" in model or "LMHead" in model:
                return mean(out["logits"][:, :-1], labels["labels"][:, 1:])
            case _:
                return mean(out["logits"], labels["labels"])

    return loss


def greedy(name: str) -> list[list[int]]:
    """The ids that continue the prompts, all in one ragged batch, with caches."""
    found, params = loaded(name)
    prompts = [prompt.tolist() for prompt in cases.ids("greedy", cases.PROMPTS)]
    cfg = decoding.Config(max_new_tokens=cases.NEW, temperature=0.0)
    return decoding.generate(found.config.make(), params, prompts, cfg, key=jax.random.key(0))


def published(name: str, params: tree.Tree) -> dict[str, np.ndarray]:
    """A tree of ours (parameters, gradients) by the published names and layouts."""
    found, leaves = loaded(name)[0], tree.paths(params)
    out = {}
    for rule in found.rules:
        out |= zip(rule.theirs, rule.save([np.asarray(leaves[path]) for path in rule.ours]), strict=True)
    return out
