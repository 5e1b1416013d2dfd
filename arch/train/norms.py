"""The norms of all that a step computes of one batch: every module's output, the gradient and the parameters.

    norms = Norms(setup)(state, batch, key)   {"activations": {path: norm}, "gradients": {...}, "parameters": {...}}

by canonical path, of the state before the step; and which of them is the first that is no finite number. The gradient
is computed as the step computes it, the outputs by a forward pass layer by layer.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import tree
from arch.layers import stack
from arch.layers.contract import Output
from arch.train.gradient import gradient_of, parts_of
from arch.train.objective import objective, totals
from arch.train.setup import Setup
from arch.train.state import TrainState
from arch.typing import Array, Float


class Norms:
    """The function (state, batch, key) -> norms by path of `activations`, `gradients` and `parameters`."""

    def __init__(self, setup: Setup):
        cfg = setup.cfg
        self._how = dict(task=cfg.task, loss=cfg.loss, micro_batches=cfg.micro_batches)
        self._model, self._cfg = unrolled(cfg.model).make(), cfg
        self._gradient = gradient_of(setup.model, setup.plan.trainable, **self._how)
        self._of_weights = jax.jit(self._weights)
        self._names: list[str] = []
        self._of_outputs = jax.jit(self._outputs)

    def __call__(self, state: TrainState, batch: dict[str, jax.Array], key) -> dict[str, dict[str, float]]:
        key = jax.random.fold_in(key, state.step)
        gradients, parameters = self._of_weights(state.params, batch, key, state.loss_scale)
        parts = [self._of_outputs(state.params, batch, key, i) for i in range(self._cfg.micro_batches)]
        outputs = [math.hypot(*map(float, values)) for values in zip(*parts)]
        return {
            "activations": dict(zip(self._names, outputs)),
            "gradients": {path: float(value) for path, value in gradients.items()},
            "parameters": {path: float(value) for path, value in parameters.items()},
        }

    def _weights(self, params, batch, key, scaling):
        gradients, _ = self._gradient(params, batch, key, scaling)
        return tuple(jax.tree.map(norm, tree.paths(tree.unstack(leaves))) for leaves in (gradients, params))

    def _outputs(self, params, batch, key, index):
        seen: dict[str, Array] = {}

        def record(call, args, kwargs, context):
            out = call(*args, **kwargs)
            leaves = jax.tree.leaves(out.x if isinstance(out, Output) else out)
            floats = [norm(leaf) for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
            if floats:
                name = "/".join(context.module.path) or "model"
                name += "" if context.method_name == "__call__" else f".{context.method_name}"
                calls = sum(other.split(" ")[0] == name for other in seen)
                seen[f"{name} ({calls + 1})" if calls else name] = norm(jnp.stack(floats))
            return out

        part = jax.tree.map(lambda x: x[index], parts_of(batch, self._cfg.micro_batches))
        key = jax.random.fold_in(key, index)
        with nn.intercept_methods(record):
            objective(self._model, tree.unstack(params), part, totals(self._cfg.task, batch), key, **self._how)
        self._names = list(seen)
        return list(seen.values())


def unrolled(model_cfg: Any) -> Any:
    """The same model, for parameters in canonical form: its layers run one by one, and compute nothing twice."""
    stacks = {
        field.name: value.replace(remat="none")
        for field in dataclasses.fields(model_cfg)
        if isinstance(value := getattr(model_cfg, field.name), stack.Config)
    }
    return model_cfg.replace(**stacks)


def norm(x) -> Float[Array, ""]:
    """The square root of the sum of squares, in float32: infinite or NaN only if an entry is, not by squaring."""
    x = jnp.asarray(x, jnp.float32)
    largest = jnp.max(jnp.abs(x), initial=0.0)
    unit = jnp.where(largest > 0, largest, 1.0)
    return unit * jnp.sqrt(jnp.sum(jnp.square(x / unit)))


def first_nonfinite(norms: dict[str, dict[str, float]], loss: float) -> str:
    """The first that is no finite number, behind its kind; '' when there is none.

    Parameters come first, then outputs in the order of the forward pass, then the loss (of finite outputs: then targets
    or weights are to blame), then gradients from the last path to the first, as the backward pass goes.
    """
    named = {kind: [(f"{kind}: {path}", value) for path, value in each.items()] for kind, each in norms.items()}
    ordered = [*named["parameters"], *named["activations"], ("loss", loss), *reversed(named["gradients"])]
    return next((name for name, value in ordered if not math.isfinite(value)), "")
