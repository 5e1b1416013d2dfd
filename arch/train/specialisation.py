"""What each expert of a mixture is for: its share, which experts its tokens have besides, and which tokens it has most.

    share_i     = n_ii / sum_j n_jj        n_ij: evaluated tokens that reach experts i and j;  n_ii: those that reach i
    also_j|i    = n_ij / n_ii
    token v, i:   m_vi / n_ii of what the expert reads, m_vi / m_v of the token's places;      m_vi: places of v at i

Tokens are counted of the WATCHED ids alone that are commonest in the validation split.
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from arch.ops.routing import statistics
from arch.train import report

WATCHED = 256
"""Ids of which an evaluation counts where they go."""

_SAMPLE = 2**18
_TOKENS, _PARTNERS = 8, 4


def commonest(tokens: np.ndarray) -> np.ndarray:
    """int32 [at most WATCHED] the ids that occur most often among the first 2^18 of a split, ascending."""
    ids, counts = np.unique(np.asarray(tokens[:_SAMPLE]), return_counts=True)
    return np.sort(ids[np.argsort(-counts, kind="stable")[:WATCHED]]).astype(np.int32)


def tables(routing: Mapping[str, np.ndarray], watched: np.ndarray, text: Callable[[int], str]) -> dict[str, dict]:
    """What the sums of an evaluation say, by layer, ready for JSON.

    Args:
      routing: `statistics.tables` by path: `layers/3/moe/coactivation`.
      watched: [n] the ids.
      text: of an id.

    Returns:
      Of each layer `coactivation`, a list of lists, and `experts`, of each `share`, `also` ([expert, fraction], the
      most frequent first) and `tokens` ([text, fraction of the expert's, fraction of the token's], likewise).
    """
    layers: dict[str, dict] = {}
    for path, table in routing.items():
        sublayer, name = path.rsplit("/", 1)
        layers.setdefault(report.layer_name(sublayer), {})[name] = table
    return {layer: _layer(layers[layer], watched, text) for layer in sorted(layers, key=report.natural)}


def _layer(found: Mapping[str, np.ndarray], watched: np.ndarray, text: Callable[[int], str]) -> dict[str, Any]:
    together, counts, loads = (found[name] for name in statistics.TABLES)
    has = together.diagonal()
    experts = []
    for i, number in enumerate(has):
        whole = max(number, 1.0)
        others = [j for j in np.argsort(-together[i], kind="stable") if j != i and together[i, j]]
        ids = [v for v in np.argsort(-loads[:, i], kind="stable")[:_TOKENS] if loads[v, i]]
        tokens = [[text(int(watched[v])), loads[v, i] / whole, loads[v, i] / counts[v]] for v in ids]
        also = [[int(j), together[i, j] / whole] for j in others[:_PARTNERS]]
        experts.append({"share": number / max(has.sum(), 1.0), "also": also, "tokens": tokens})
    return {"coactivation": together.astype(int).tolist(), "experts": experts}


def markdown(layer: Mapping[str, Any]) -> str:
    """A layer of `tables`: a line an expert."""
    lines = ["| expert | share | its tokens also go to | its tokens (part of them; of the token's places) |"]
    lines.append("|---|---|---|---|")
    for i, expert in enumerate(layer["experts"]):
        also = ", ".join(f"{j} ({part:.0%})" for j, part in expert["also"]) or "none"
        tokens = ", ".join(f"{_plain(text)} ({part:.1%}; {of:.0%})" for text, part, of in expert["tokens"]) or "none"
        lines.append(f"| {i} | {expert['share']:.1%} | {also} | {tokens} |")
    return "\n".join(lines)


def coactivation(layer: Mapping[str, Any]) -> str:
    """A layer's table experts x experts: which part of the row's expert's tokens goes to the column's, too."""
    together = np.asarray(layer["coactivation"], float)
    parts = together / np.maximum(together.diagonal(), 1.0)[:, None]
    lines = [f"| of \\ to | {' | '.join(map(str, range(len(parts))))} |", "|---" * (len(parts) + 1) + "|"]
    lines += [f"| {i} | {' | '.join(f'{part:.0%}' for part in row)} |" for i, row in enumerate(parts)]
    return "\n".join(lines)


def write(file: pathlib.Path, step: int, layers: Mapping[str, Any]) -> None:
    """The newest evaluation's tables as JSON."""
    file.write_text(json.dumps({"step": step, "layers": layers}, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(text: str) -> str:
    """A token's text in a cell of Markdown."""
    return re.sub(r"([\\|*_`<\[])", r"\\\1", repr(text))
