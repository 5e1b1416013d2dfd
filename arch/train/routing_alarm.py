"""The alarm of a mixture of experts whose routing collapses: which layer, what of it, and what the config has off.

    crowd   max_i load_i > (1/E + 1/k) / 2       half-way from the even share to the most that an expert can have
    dead    an expert has a load under DEAD_BELOW of the even one (arch/ops/routing/statistics.py)
    sure    entropy of the router's probabilities < SURE_BELOW ln E

It reads the numbers that are logged anyway. A layer is told of when a trouble was there at PATIENCE logged steps in a
row, once, and again after it was away for as many. Why routers collapse: Shazeer et al., Outrageously Large Neural
Networks, 2017, arXiv 1701.06538, sec. 4.
"""

import math
from collections.abc import Mapping
from typing import Any

from arch.ffns import moe
from arch.ops.routing.statistics import DEAD_BELOW
from arch.train.mixtures import mixtures

PATIENCE = 5
"""Logged steps in a row."""

SURE_BELOW = 0.02
"""The entropy of a router that has stopped to choose, as a part of the largest one."""


class Alarm:
    """That of a run.

    Args:
      model_cfg: of the model, whose fields hold its stacks.
    """

    def __init__(self, model_cfg: Any):
        self._mixtures = {place.log: layer for place, layer in mixtures(model_cfg)}
        self._streaks: dict[tuple[str, str], int] = {}
        self._told: set[tuple[str, str]] = set()

    def heed(self, scalars: Mapping[str, float]) -> dict[str, str]:
        """What there is to say of a logged step.

        Args:
          scalars: the step's numbers by the names of `arch.train.names`.

        Returns:
          The text `moe/<layer>/alarm` of each layer that has a new trouble, or has lost one.
        """
        texts = {}
        for layer, cfg in self._mixtures.items():
            prefix = f"moe/{layer}/"
            own = {name.removeprefix(prefix): x for name, x in scalars.items() if name.startswith(prefix)}
            found = troubles(cfg, own) if own else {}
            lines = [self._line((layer, kind), found.get(kind, ""), cfg) for kind in REMEDIES] if own else []
            if any(lines):
                texts[f"{prefix}alarm"] = "; ".join(filter(None, lines))
        return texts

    def _line(self, key: tuple[str, str], trouble: str, cfg: moe.Config) -> str:
        """What to say of one kind of trouble of a layer; '' for nothing."""
        told, kind = key in self._told, key[1]
        self._streaks[key] = self._streaks.get(key, 0) + 1 if bool(trouble) != told else 0
        if self._streaks[key] < PATIENCE:
            return ""
        self._streaks[key] = 0
        self._told ^= {key}
        if told:
            return f"recovered: {_RECOVERED[kind]}"
        return f"{trouble}, at {PATIENCE} logged steps in a row; try {', '.join(REMEDIES[kind](cfg))}"


def troubles(cfg: moe.Config, numbers: Mapping[str, float]) -> dict[str, str]:
    """What is wrong with a layer by kind, 'crowd', 'dead' or 'sure'; {} for nothing, and for a batch of padding.

    Args:
      cfg: of the layer.
      numbers: those of `arch.ops.routing.statistics.summary`.
    """
    found, e, k, entropy = {}, cfg.num_experts, cfg.top_k, numbers["router_entropy"]
    if not numbers["load_max"]:
        return found
    if k < e and numbers["load_max"] > (1 / e + 1 / k) / 2:
        expert = max(range(e), key=lambda i: numbers[f"load/{i}"])
        most = f"{numbers['load_max']:.0%} of the assignments"
        found["crowd"] = f"expert {expert} has {most}, an even share is {1 / e:.1%}"
    if numbers["dead_experts"]:
        found["dead"] = f"{numbers['dead_experts']:.0f} of {e} experts are under {DEAD_BELOW:.0%} of the even load"
    if cfg.router.matrices and entropy < SURE_BELOW * math.log(e):
        found["sure"] = f"the router's entropy is {entropy:.2g} nats of {math.log(e):.3g}: it is sure of every token"
    return found


def _balance(cfg: moe.Config) -> list[str]:
    """For an uneven load: what the config has off, or how to have more of what is on."""
    if not cfg.router.matrices:
        return [f"another router than {cfg.router.label!r}, which learns nothing"]
    weight = cfg.balance_weight
    found = [f"balance_weight above {weight:g}" if weight else "balance_weight=0.01"]
    if cfg.router.biased:
        found.append(f"bias_rate above {cfg.bias_rate:g}" if cfg.bias_rate else "bias_rate=0.001")
    return found + _soften(cfg)


def _soften(cfg: moe.Config) -> list[str]:
    """For large logits."""
    found = [] if cfg.z_weight else ["z_weight=0.001"]
    return found if cfg.router.jitter else [*found, "router.jitter=0.01"]


def _limit(cfg: moe.Config) -> list[str]:
    """For a crowd, which a capacity sends elsewhere."""
    has = not cfg.router.matrices or hasattr(cfg.router, "capacity_factor")
    return [] if has else ["a router with a capacity (switch, gshard)"]


REMEDIES = {
    "crowd": lambda cfg: _balance(cfg) + _limit(cfg),
    "dead": _balance,
    "sure": lambda cfg: [*_soften(cfg), "a lower optimizer.learning_rate"],
}
"""By kind of trouble, what to change of the layer's config."""

_RECOVERED = {"crowd": "no expert is crowded", "dead": "no expert is dead", "sure": "the router chooses again"}
