"""Holds our logits against transformers', on one batch of token ids.

transformers runs in a process of its own: on the interpreter that ARCH_PEERS_PYTHON names, else on the repository's
.venv-peers (`make peers` builds it), else on this one if it is installed here.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from arch import tree
from arch.models import decoder

ENVIRONMENT = "ARCH_PEERS_PYTHON"
DEFAULT = pathlib.Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
ROWS, LENGTH = 2, 16
PROGRAM = """
import sys, numpy, torch, transformers
where, gguf_file, ids, out = sys.argv[1:]
named = {"gguf_file": gguf_file} if gguf_file else {}
model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **named).eval()
with torch.no_grad():
    numpy.save(out, model(torch.from_numpy(numpy.load(ids))).logits.numpy())
"""


def difference(model: Any, params: tree.Tree, path: str) -> float:
    """The largest absolute difference between our logits and those of transformers.

    Args:
      model: a Linen language model.
      params: its parameters.
      path: the published checkpoint that transformers is to open, a folder or a GGUF file.

    Raises:
      ValueError: the model is no decoder, transformers is not at hand, or it fails.
    """
    if not isinstance(model.cfg, decoder.Config):
        raise ValueError(f"--verify compares decoders; this model is {type(model).__name__}")
    tokens = np.random.default_rng(0).integers(0, model.cfg.vocab_size, (ROWS, LENGTH))
    theirs = peer_logits(path, tokens)
    ours = np.asarray(model.apply({"params": params}, jnp.asarray(tokens, jnp.int32)).x)
    if ours.shape != theirs.shape:
        raise ValueError(f"{path}: transformers gives logits of shape {theirs.shape}, not {ours.shape}")
    return float(np.max(np.abs(ours - theirs)))


def peers_python() -> str:
    """The Python that is to have the peers, whether or not it is there: ARCH_PEERS_PYTHON, .venv-peers, or this one."""
    here = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return os.environ.get(ENVIRONMENT) or (sys.executable if here and not DEFAULT.exists() else str(DEFAULT))


def interpreter() -> str:
    """`peers_python`. Raises ValueError, saying how to get one, if it is not there."""
    python = peers_python()
    if not pathlib.Path(python).exists():
        raise ValueError(
            f"--verify needs transformers, and {python} does not exist: `make peers` builds it, or "
            f"{ENVIRONMENT}=/path/to/python names an interpreter that has it"
        )
    return python


def peer_logits(path: str, tokens: np.ndarray) -> np.ndarray:
    """float32[b t v]: what transformers computes of int64[b t] tokens with the checkpoint at `path`."""
    where = pathlib.Path(path).absolute()
    folder, gguf_file = (where.parent, where.name) if where.suffix == ".gguf" else (where, "")
    with tempfile.TemporaryDirectory() as scratch:
        ids, out = pathlib.Path(scratch, "ids.npy"), pathlib.Path(scratch, "logits.npy")
        np.save(ids, tokens)
        done = subprocess.run(
            [interpreter(), "-c", PROGRAM, str(folder), gguf_file, str(ids), str(out)],
            capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"{path}: transformers fails: {last}")
        return np.load(out)
