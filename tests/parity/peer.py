"""What transformers computes on the tiny models of `tests/parity/cases.py`, written down as goldens.

    make peers
    .venv-peers/bin/python -m tests.parity.peer make [CASE ...] [--out FOLDER]
    .venv-peers/bin/python -m tests.parity.peer run FOLDER

`make` writes a golden a case; `run` opens the checkpoints that somebody else wrote into FOLDER/CASE and writes the same
results of them into FOLDER/CASE.npz. Only this file imports torch; it runs in the peers' environment, on a CPU, in
float32, with eager attention.

A golden holds no weights, since they follow from their names (`cases.weights`). It holds
    about               JSON: command, versions, date, the config.json, and shape and type of each published tensor
    padded/NAME         outputs on two rows padded on the right, the padding left out
    packed/NAME         outputs on three documents, each alone, one after the other
    loss                on the padded rows
    gradient/TENSOR     of that loss, for some tensors whole
    gradients           `cases.digest` of that of each tensor, in the order of their names
    greedy/I            the ids that continue prompt I, with a cache, one prompt at a time
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.parity import cases
from tests.parity.cases import ALL, Case

PEERS = (torch, transformers, np)
PAD_1 = re.compile("Roberta|Longformer")
"""Models whose positions count from behind the id of padding, which must be theirs."""
MARGIN = 1e-4
"""The least difference between the likeliest two tokens of a greedy step; less would make it a matter of luck."""


def special(case: Case) -> dict[str, int]:
    """The ids that stand for something: the tokenizer's matter, but transformers' configs hold them."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1 if PAD_1.search(case.model) else 0}
    return ids | ({"decoder_start_token_id": cases.START} if case.encoder_decoder else {})


def publish(case: Case, folder: str) -> dict:
    """Writes config.json and model.safetensors with the seeded weights. Returns config, and shapes of the tensors."""
    kind = getattr(transformers, case.model)
    config = kind.config_class(vocab_size=cases.VOCAB, **special(case), **case.config)
    kind(config).save_pretrained(folder)
    attributes, file = pathlib.Path(folder, "config.json"), f"{folder}/model.safetensors"
    written = json.loads(attributes.read_text()) | case.attributes
    config = {name: value for name, value in written.items() if case.attributes.get(name, ...) is not None}
    attributes.write_text(json.dumps(config))
    shapes = {name: value.shape for name, value in load_file(file).items()} | case.tensors
    save_file({name: case.value(name, shape) for name, shape in shapes.items()}, file, metadata={"format": "pt"})
    return {"config": config, "tensors": {name: list(shape) for name, shape in sorted(shapes.items())}}


def open_published(folder: str, case: Case):
    """The model in a folder, of the class that its config.json names, without randomness."""
    architecture = json.loads(pathlib.Path(folder, "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    how = dict(attn_implementation=case.attention, experts_implementation="eager", use_safetensors=True)
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **how)
    info["missing_keys"] = {name for name in info["missing_keys"] if not re.fullmatch(case.zero, name)}
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise ValueError(f"{folder}: {wrong}")
    for name, value in special(case).items():  # what our exports do not say
        for config in (model.config, getattr(model, "generation_config", model.config)):
            setattr(config, name, value)
    return model.train(case.training)


def results(model, case: Case) -> dict[str, np.ndarray]:
    """The arrays of a golden."""
    rows = _rows(case, "padded", case.lengths)
    out = {f"padded/{name}": value for name, value in _outputs(model, case, rows).items()}
    alone = [_outputs(model, case, [row]) for row in _rows(case, "packed", cases.DOCUMENTS)]
    for name in alone[0]:
        out[f"packed/{name}"] = np.concatenate([one[name] for one in alone])
    if not case.encoder:
        for i, prompt in enumerate(cases.ids("greedy", cases.PROMPTS)):
            out[f"greedy/{i}"] = _greedy(model, case, prompt)
    for module in list(model.modules()):  # a short row makes all of BigBird's later ones full
        if hasattr(module, "set_attention_type"):
            module.set_attention_type(model.config.attention_type)
    if cases.labels(case):
        loss = model(**_read(model, case, rows), **_tensors(cases.labels(case))).loss
        out["loss"] = loss.detach().numpy()
        if case.gradients:
            out |= _gradients(model, case, loss)  # last: it overwrites the weights
    return out


def _rows(case: Case, use: str, lengths: tuple[int, ...]) -> list[dict]:
    """What each row reads."""
    read = cases.inputs(case, use, lengths)
    return [{name: value[i] for name, value in read.items()} for i in range(len(lengths))]


def _tensors(arrays: dict[str, np.ndarray]) -> dict:
    return {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in arrays.items()}


def _read(model, case: Case, rows: list[dict]) -> dict:
    """The arguments of a call on these rows, padded on the right."""
    pad = model.config.pad_token_id
    arrays = {"input_ids": cases.padded([row["input_ids"] for row in rows], pad)}
    arrays["attention_mask"] = cases.padded([np.ones_like(row["input_ids"]) for row in rows], 0)
    if case.encoder:
        arrays["token_type_ids"] = cases.padded([row["token_type_ids"] for row in rows], 0)
    if case.chooses_globals:
        arrays["global_attention_mask"] = cases.padded([row["global_attention_mask"] for row in rows], 0)
    return _tensors(arrays)


@torch.no_grad()
def _outputs(model, case: Case, rows: list[dict]) -> dict[str, np.ndarray]:
    """Every output: [tokens ...] of those with a value a token, without padding; [rows ...] of the others."""
    read = _read(model, case, rows)
    mask = read["attention_mask"].bool()
    if case.encoder_decoder:
        read |= _tensors({"labels": cases.padded([row["labels"] for row in rows], -100)})
        mask = read["labels"] >= 0
    names = ("logits", "last_hidden_state", "pooler_output", "prediction_logits", "seq_relationship_logits",
             "start_logits", "end_logits")  # fmt: skip
    out = {name: value for name, value in model(**read).items() if name in names}
    whole = {name: value[mask] if value.shape[:2] == mask.shape else value for name, value in out.items()}
    return {name: value.numpy() for name, value in whole.items()}


def _gradients(model, case: Case, loss) -> dict[str, np.ndarray]:
    loss.backward()
    with tempfile.TemporaryDirectory() as folder:  # saved as a model is, so that the names are the published ones
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for buffer in model.buffers():  # saved too, some of them: they have no gradient
            buffer.data = torch.zeros_like(buffer)
        model.save_pretrained(folder)
        gradients = load_file(f"{folder}/model.safetensors")
    out = {f"gradient/{name}": gradients[name] for name in case.gradients}
    return out | {"gradients": np.float32([cases.digest(name, gradients[name]) for name in sorted(gradients)])}


@torch.no_grad()
def _greedy(model, case: Case, prompt: np.ndarray) -> np.ndarray:
    read = _tensors({"input_ids": prompt[None], "attention_mask": np.ones_like(prompt[None])})
    model.generation_config.eos_token_id = None
    for module in model.modules():  # RecurrentGemma would go on where the prompt before this one ended
        if hasattr(module, "conv1d_state"):
            module.conv1d_state = None
    how = dict(max_new_tokens=cases.NEW, do_sample=False, num_beams=1, use_cache=True)
    made = model.generate(**read, **how, return_dict_in_generate=True, output_logits=True)
    best = torch.stack(made.logits).topk(2).values
    gap = (best[..., 0] - best[..., 1]).min()
    if gap < MARGIN:
        raise ValueError(f"{case.model}: the likeliest two tokens are only {gap:.1e} apart; change the case")
    return made.sequences[0, -cases.NEW :].numpy().astype(np.int32)


def make(names: list[str], out: pathlib.Path) -> None:
    """Writes goldens into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        case = ALL[name]
        with tempfile.TemporaryDirectory() as folder:
            about = {
                "command": f"python -m tests.parity.peer make {name}",
                "versions": {"python": sys.version.split()[0]} | {m.__name__: m.__version__ for m in PEERS},
                "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            } | publish(case, folder)
            arrays = results(open_published(folder, case), case)
        np.savez_compressed(out / f"{name}.npz", about=np.array(json.dumps(about)), **arrays)
        print(f"{name}: {len(arrays)} arrays, {(out / f'{name}.npz').stat().st_size} bytes")


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    maker = modes.add_parser("make")
    maker.add_argument("cases", nargs="*", default=list(ALL), metavar="CASE")
    maker.add_argument("--out", type=pathlib.Path, default=cases.GOLDENS)
    runner = modes.add_parser("run")
    runner.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.mode == "make":
        make(args.cases, args.out)
    else:
        for folder in filter(pathlib.Path.is_dir, sorted(args.folder.iterdir())):
            case = ALL[folder.name]
            arrays = results(open_published(folder, case), case)
            np.savez_compressed(folder.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
