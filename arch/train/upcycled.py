"""What `init_from` gives with `upcycle`: a dense model's ffns as the experts of this one's mixtures (`arch.adapt`)."""

import logging
from typing import Any

import jax
import numpy as np

from arch import config, tree
from arch.adapt.upcycle import upcycle_to
from arch.sharding import mesh as meshes
from arch.train import experiment, library, provenance, restore
from arch.weights import pretrained

log = logging.getLogger("arch")


def params(cfg: experiment.Config, path: str, abstract: Any, *, published: bool) -> tree.Tree:
    """The parameters that a run begins with; the whole mixture is laid out on each process's first device before.

    Args:
      cfg: of the run; its seed draws the routers and the noise.
      path: of the dense model, a run of ours or a published checkpoint.
      abstract: the run's parameters as `jax.ShapeDtypeStruct`s, placed.
      published: which of the two.

    Raises:
      ValueError: the dense model cannot be read, or differs from the run's in more than the mixtures.
    """
    with jax.set_mesh(meshes.make(meshes.Config(), jax.local_devices()[:1])):
        if published:
            model, dense = pretrained.load(path)
        else:
            model, dense = library.load_config(path).model, tree.unstack(restore.restore_params(path)[0])
        other, values = upcycle_to(model, dense, cfg.model, key=jax.random.key(cfg.seed), noise=cfg.upcycle_noise)
        values = jax.device_get(tree.stack(values, abstract))
    changed = provenance.diff(_by_layer(other), _by_layer(cfg.model), "model")
    changed = [line for line in changed if line.split(":")[0].rsplit(".", 1)[-1] not in experiment.FREE]
    if changed:
        raise ValueError(f"upcycle=True: the model must be the dense one but for its mixtures: {'; '.join(changed)}")
    sparse = [i for i, layer in enumerate(other.layers.blocks) if layer != model.layers.blocks[i]]
    log.info("the ffns of layers %s are their experts, with noise %g", ", ".join(map(str, sparse)), cfg.upcycle_noise)
    return jax.tree.map(_placed, values, abstract)


def _placed(leaf: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    whole = leaf.astype(like.dtype)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: whole[index])


def _by_layer(model: Any) -> dict[str, Any]:
    """A model's config as a dict, each layer by its number, however they are grouped."""
    layers = {str(i): config.to_dict(layer) for i, layer in enumerate(model.layers.blocks)}
    return config.to_dict(model) | {"layers": layers}
