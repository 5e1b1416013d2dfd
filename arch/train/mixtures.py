"""Where a model's mixtures of experts stand: what looks at routers, before a run and during it, goes through these."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from arch.ffns import moe
from arch.layers import stack


class Place(NamedTuple):
    """One of them."""

    stack: str
    """The model's field that holds its layer: 'layers', or 'encoder' ..."""
    index: int
    """Of its layer in the stack."""
    group: str
    """With which layers it shares its parameters; '' for none."""
    label: str
    """Its name in its layer: 'moe', 'moe_1' ..."""

    @property
    def params(self) -> str:
        """The path of its parameters, in canonical form: 'layers/3/moe'."""
        return f"{self.stack}/{self.group or self.index}/{self.label}"

    @property
    def log(self) -> str:
        """The name of its layer in the log: 'layers/3', 'encoder/layers/3', 'layers/3/moe_1'."""
        name = f"layers/{self.index}/{self.label}".removesuffix("/moe")
        return name if self.stack == "layers" else f"{self.stack}/{name}"


def mixtures(model_cfg: Any) -> Iterator[tuple[Place, moe.Config]]:
    """Each mixture of a model with its place, those that share their parameters too."""
    for field, layers in stacks(model_cfg).items():
        for i, layer in enumerate(layers.blocks):
            for label, sublayer in zip(layer.labels, layer.sublayers):
                if isinstance(sublayer, moe.Config):
                    yield Place(field, i, layer.group, label), sublayer


def stacks(model_cfg: Any) -> dict[str, stack.Config]:
    """Those of a model, by field."""
    fields = {field.name: getattr(model_cfg, field.name) for field in dataclasses.fields(model_cfg)}
    return {name: value for name, value in fields.items() if isinstance(value, stack.Config)}
