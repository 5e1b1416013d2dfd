"""Which experts a model's tokens go to, recorded in one pass to be replayed in another (`arch/routers/replay.py`).

    routes = record(model_cfg, params, batch)
    batch | fields(routes)            # what a model whose routers are `replay` reads in training and evaluation

    save("routes.npz", routes, ids)   # then --config.replay=routes.npz gives training its samples' routes back

The other pass may be another precision's, mesh's, dispatch's or engine's: what still differs is not the routing.
"""

import dataclasses
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from arch import tree
from arch.data import dataset
from arch.layers.contract import Routes
from arch.ops.routing.replay import RECORDED
from arch.routers import replay
from arch.train import experiment
from arch.train.mixtures import mixtures
from arch.train.objective import context_of
from arch.typing import Array


def record(model_cfg: Any, params: tree.Tree, batch: dict[str, Array], *, key=None) -> Routes:
    """The routes of a batch's tokens; traceable.

    Args:
      model_cfg: of a decoder or encoder.
      params: its parameters, in either form.
      batch: `tokens` and `positions` [b t], and what else its layers read.
      key: of a pass in training; None to be deterministic.

    Raises:
      ValueError: the model has no mixture whose routes can be recorded, or two in a layer.
    """
    must_record(model_cfg)
    context = dataclasses.replace(context_of(batch, key), recording=True)
    stats = model_cfg.make().apply({"params": params}, batch["tokens"], context).aux.stats
    found = [{} for _ in model_cfg.layers.blocks]
    for place, _ in mixtures(model_cfg):
        own = f"layers/{place.index}/{place.label}/"
        found[place.index] = {name: stats[own + name] for name in RECORDED}
    places = max(layer[RECORDED[0]].shape[-1] for layer in found if layer)
    shape = (*batch["tokens"].shape, places)
    empty = {name: jnp.full(shape, value, kind) for name, value, kind in zip(RECORDED, (-1, 0), ("int32", "float32"))}

    def widened(layer: dict, name: str) -> Array:
        leaf = layer.get(name, empty[name])
        spare = ((0, 0), (0, 0), (0, places - leaf.shape[-1]))
        return jnp.pad(leaf, spare, constant_values=-1 if name == RECORDED[0] else 0)

    return Routes(*(jnp.stack([widened(layer, name) for layer in found], axis=2) for name in RECORDED))


def must_record(model_cfg: Any) -> None:
    """Raises ValueError unless the model's layers have one mixture each at most, of tokens that are chosen."""
    places = list(mixtures(model_cfg))
    if not places:
        raise ValueError("the model has no mixture of experts whose routes could be recorded")
    for i, (place, layer) in enumerate(places):
        if place.stack != "layers" or (i and places[i - 1][0].index == place.index):
            raise ValueError(f"{place.log} must be the one mixture of a layer in `layers` to have its routes recorded")
        if layer.router.mixes:
            raise ValueError(f"router={layer.router.label!r} of {place.log} mixes tokens: it has no routes to record")


def must_suit(routes: Routes, model_cfg: Any) -> None:
    """Raises ValueError unless a model with these replayed would compute them: no check is made on a device.

    Each layer with a mixture must have an expert of its own in each place, or -1, and no other layer any.
    """
    experts, layers = np.asarray(routes.experts), len(model_cfg.layers.blocks)
    if experts.shape[2] != layers:
        raise ValueError(f"the routes are of {experts.shape[2]} layers, and must be of {layers}, the model's")
    sizes = {place.index: layer.num_experts for place, layer in mixtures(model_cfg)}
    for i in range(layers):
        size, own = sizes.get(i, 0), experts[:, :, i]
        if own.max(initial=-1) >= size or own.min(initial=0) < -1:
            worst = own.max() if own.max() >= size else own.min()
            raise ValueError(f"expert {worst} of layer {i} must be from -1 to {size - 1}, the experts that it has")
        ordered = np.sort(own, axis=-1)
        if np.any((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)):
            raise ValueError(f"a token of layer {i} has an expert twice")


def save(file, routes: Routes, ids: np.ndarray) -> None:
    """Writes the routes of training samples.

    Args:
      file: ends in '.npz'.
      routes: [b t n c].
      ids: [b] the samples' numbers: those of a batch g of B rows are g B to g B + B - 1 (`ids` in `Setup.dataset`).
    """
    with open(file, "wb") as out:
        np.savez(out, ids=ids, **{name: np.asarray(leaf) for name, leaf in fields(routes).items()})


def replayed(samples: dataset.Samples, file: str, model_cfg: Any, *, seq_len: int) -> dataset.Samples:
    """Samples of so many tokens with the routes that a file has of them.

    Raises:
      ValueError: the file is none of `save`'s, or its routes do not suit the model; for a sample that it lacks, too.
    """
    try:
        with np.load(file) as found:
            ids, *arrays = (found[name] for name in ("ids", *RECORDED))
        shape = (len(ids), seq_len, len(model_cfg.layers.blocks))
        for name, array, kind in zip(RECORDED, arrays, (np.int32, np.float32)):
            if array.ndim != 4 or array.shape[:3] != shape or array.dtype != kind:
                raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not {kind.__name__}{[*shape, '...']}")
        must_suit(Routes(*map(jnp.asarray, arrays)), model_cfg)
    except (ValueError, OSError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"replay={file!r} must be a file that arch.train.routes.save wrote: {error}") from None
    places = {int(number): place for place, number in enumerate(ids)}

    def with_routes(sample: dict, index: int) -> dict:
        if index not in places:
            raise ValueError(f"replay={file!r} has no routes of sample {index}, but of {len(places)} others")
        return sample | {name: array[places[index]] for name, array in zip(RECORDED, arrays)}

    return dataset.Mapped(samples, with_routes)


def must_replay(cfg: experiment.Config) -> None:
    """Raises ValueError where routers wait for routes that a run does not give them, or the other way round."""
    waiting = [place.log for place, layer in mixtures(cfg.model) if isinstance(layer.router, replay.Config)]
    if waiting and not cfg.replay:
        raise ValueError(f"replay='' must name a file of routes with router='replay' of {waiting[0]}")
    if cfg.replay and not waiting:
        raise ValueError(f"replay={cfg.replay!r} must be '' without a mixture of experts of router='replay'")


def fields(routes: Routes) -> dict[str, Array]:
    """The routes as fields of a batch, rows first: what `objective` makes the `routes` of a `Context` of."""
    return dict(zip(RECORDED, (routes.experts, routes.weights)))
