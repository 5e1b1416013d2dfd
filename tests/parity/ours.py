"""Our side of the parity tests: a golden, the checkpoint it is about, and what our model makes of the same input."""

import dataclasses
import functools
import json
import pathlib
import re
import tempfile
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from arch import tree
from arch.decode import generate as decoding
from arch.heads import classification, pooler, pretraining
from arch.layers.contract import Context, positions_of
from arch.ops import loss as losses
from arch.published import differences
from arch.weights import pretrained
from arch.weights.target import canonical
from tests.parity import cases
from tests.parity.cases import ALL
from tests.parity.compositions import COMPOSITIONS

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
    save_file(tensors(name), f"{folder}/model.safetensors", metadata={"format": "pt"})


def tensors(name: str) -> dict[str, np.ndarray]:
    """The published tensors of a case."""
    return {tensor: ALL[name].value(tensor, tuple(shape)) for tensor, shape in golden(name)[0]["tensors"].items()}


@functools.cache
def loaded(name: str) -> tuple[Any, tree.Tree]:
    """Something with our config and rules, and our parameters: by the importer, or by hand for a composition."""
    if name in COMPOSITIONS:
        return _composed(name)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(name, folder)
        found = pretrained.open(folder)
        return found, pretrained.read(found, canonical(found.config))


def _composed(name: str) -> tuple[Any, tree.Tree]:
    config, rules = COMPOSITIONS[name]()
    theirs, zero, leaves = tensors(name), ALL[name].zero, {}
    assert differences(rules, tree.paths(canonical(config)), theirs, (zero,) if zero else ()) == []
    for rule in rules:
        leaves |= zip(rule.ours, rule.load([theirs[tensor] for tensor in rule.theirs]), strict=True)
    params = jax.device_put(tree.from_paths(leaves), jax.local_devices()[0])
    return types.SimpleNamespace(config=config, rules=rules), params


def family_of(name: str) -> str:
    """The file of `arch/families` that reads the checkpoint of a case."""
    return loaded(name)[0].family.__name__.rsplit(".", 1)[-1]


def pools(name: str) -> bool:
    """Whether the model makes one vector of each row, so that documents cannot share one."""
    head = getattr(loaded(name)[0].config, "head", None)
    return isinstance(head, (pooler.Config, pretraining.Config, classification.Config))


@functools.cache
def batch(name: str, use: str) -> tuple:
    """The arguments of the model on the padded or the packed batch; the last is the context that goes with its output.

    Args:
      name: of the case.
      use: 'padded' or 'packed'.
    """
    case = ALL[name]
    read = cases.inputs(case, use, {"padded": case.lengths, "packed": cases.DOCUMENTS}[use])
    lay = _in_one_row if use == "packed" and not pools(name) else _in_rows
    parts = read.get("token_type_ids") if getattr(loaded(name)[0].config, "token_types", 0) else None
    tokens, context = lay(read["input_ids"], parts, read.get("global_attention_mask"))
    context = dataclasses.replace(context, deterministic=not case.training)
    if not case.encoder_decoder:
        return tokens, context
    target, after = lay([np.concatenate([[cases.START], row[:-1]]) for row in read["labels"]])
    return tokens, target, context, after


def _in_rows(rows: list, parts: list | None = None, chosen: list | None = None) -> tuple[jax.Array, Context]:
    """A row each, padded on the right."""

    def filled(values):
        return _ids(cases.padded(values, 0))

    tokens, valid = filled(rows), filled([np.ones_like(row) for row in rows]) > 0
    of, seen = (None if values is None else filled(values) for values in (parts, chosen))
    whole = None if seen is None else seen > 0
    return tokens, Context(positions=positions_of(tokens), valid=valid, token_types=of, globals=whole)


def _in_one_row(rows: list, parts: list | None = None, chosen: list | None = None) -> tuple[jax.Array, Context]:
    """All in one row, and two tokens of padding."""

    def joined(values):
        return _ids(np.concatenate([*values, [0, 0]])[None])

    segments = joined([np.full_like(row, i + 1) for i, row in enumerate(rows)])
    positions = joined([np.arange(len(row)) for row in rows])
    of, seen = (None if values is None else joined(values) for values in (parts, chosen))
    whole = None if seen is None else seen > 0
    return joined(rows), Context(positions=positions, segment_ids=segments, token_types=of, globals=whole)


def _ids(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array, jnp.int32)


@functools.cache
def forward(name: str):
    """The jitted function (params, *batch) -> outputs by transformers' names."""
    return jax.jit(_outputs(name))


@functools.cache
def evaluation(name: str):
    """The jitted function (params, *padded batch) -> loss (0 without labels), outputs, gradients (maybe none: {})."""
    run, case = _outputs(name), ALL[name]

    def loss(params, *args):
        out = run(params, *args)
        return _loss(case, out), out

    def evaluate(params, *args):
        if not case.gradients:
            return *loss(params, *args), {}
        (value, out), gradients = jax.value_and_grad(loss, has_aux=True)(params, *args)
        return value, out, gradients

    return jax.jit(evaluate)


def _outputs(name: str):
    model, case = loaded(name)[0].config.make(), ALL[name]
    method = "pair" if case.encoder_decoder else "__call__"

    def outputs(params, *args):
        out = model.apply({"params": params}, *args, method=method)
        beside = {"pooler_output": "pooled", "seq_relationship_logits": "next_sentence"}
        found = {theirs: out.shared[ours] for theirs, ours in beside.items() if ours in out.shared}
        match re.sub("^(Bert|BigBird)", "", case.model):
            case "Model":
                return {"last_hidden_state": out.x} | found
            case "ForPreTraining":
                return {"prediction_logits": out.x} | found
            case "ForQuestionAnswering":
                return {"start_logits": out.x[..., 0], "end_logits": out.x[..., 1]}
            case _:
                return {"logits": out.x}

    return outputs


def _loss(case: cases.Case, out: Arrays) -> jax.Array:
    """That of the padded batch."""
    labels = {key: _ids(value) for key, value in cases.labels(case).items()}
    match re.sub("^(Bert|BigBird)", "", case.model):
        case _ if not labels:
            return jnp.zeros(())
        case "ForPreTraining":
            ask = labels["labels"], out["seq_relationship_logits"], labels["next_sentence_label"]
            return losses.pretraining(out["prediction_logits"], *ask)
        case "ForQuestionAnswering":
            places = jnp.stack([out["start_logits"], out["end_logits"]], -1)
            return losses.span(places, labels["start_positions"], labels["end_positions"])
        case model if model.endswith(("CausalLM", "LMHeadModel")):
            return losses.mean_cross_entropy(out["logits"][:, :-1], labels["labels"][:, 1:])
        case _:
            return losses.mean_cross_entropy(out["logits"], labels["labels"])


def real(outputs: Arrays, context: Context) -> dict[str, np.ndarray]:
    """The outputs as a golden has them: those with a value a token without padding, flat."""
    mask = np.asarray(context.real())
    return {k: np.asarray(v)[mask] if v.shape[:2] == mask.shape else np.asarray(v) for k, v in outputs.items()}


def greedy(name: str) -> list[list[int]]:
    """The ids that continue the prompts, all in one ragged batch, with caches."""
    found, params = loaded(name)
    model, cfg = found.config.make(), decoding.Config(max_new_tokens=cases.NEW, temperature=0.0)
    prompts, memory = cases.ids("greedy", cases.PROMPTS), None
    if ALL[name].encoder_decoder:
        memory = model.apply({"params": params}, *_in_rows(prompts), method="encode")
        prompts = [np.array([cases.START])] * len(prompts)
    rows = [prompt.tolist() for prompt in prompts]
    return decoding.generate(model, params, rows, cfg, key=jax.random.key(0), memory=memory)


def published(name: str, gradients: tree.Tree) -> dict[str, np.ndarray]:
    """A tree of our gradients by the published names and layouts. A rule's shift is none of theirs."""
    found, leaves = loaded(name)[0], tree.paths(gradients)
    out = {}
    for rule in found.rules:
        saved = rule.save([np.asarray(leaves[path], np.float64) for path in rule.ours])
        out |= zip(rule.theirs, [value + rule.shift for value in saved], strict=True)
    return out
