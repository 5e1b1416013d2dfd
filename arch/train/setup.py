"""What a run needs before anything compiles: checked config, mesh, data, traced model, optimizer.

Everything that can be wrong with a config, a workdir or a corpus is found here, within seconds.
"""

import dataclasses
import functools
import logging
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arch import config
from arch.data import conversations, dataset
from arch.decode import generate
from arch.layers import block
from arch.models import decoder
from arch.sharding import mesh as meshes
from arch.train import capacity, cpu_devices, experiment, mixtures, offload, provenance, routes, specialisation, stages
from arch.train import state as states
from arch.train.disk import Disk
from arch.train.objective import summary
from arch.train.step import eval_step

log = logging.getLogger("arch")


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      cfg: the checked config, all lengths in steps.
      workdir: the run's folder.
      mesh: the devices.
      data: the tokenised corpus.
      model: the Linen module.
      optimizer: over the trained parameters.
      plan: the state's shapes, shardings and trainable parameters.
      disk: the files of the optimizer's means; None without any.
    """

    cfg: experiment.Config
    workdir: pathlib.Path
    mesh: Mesh
    data: dataset.Tokenized
    model: Any
    optimizer: optax.GradientTransformation
    plan: states.Plan
    disk: Disk | None = None

    def dataset(self, split: str):
        """This process's rows of each global batch of a split, by step."""
        return self._batches(self.data, split)

    def _batches(self, data, split: str):
        cfg = self.cfg
        samples = cfg.task.samples(data, split, seq_len=cfg.seq_len, seed=cfg.seed)
        if cfg.replay and split == "train":
            samples = routes.replayed(samples, cfg.replay, cfg.model, seq_len=cfg.seq_len)
        index, count = meshes.process_shard(self.mesh, cfg.batch_size)
        return dataset.make(samples, batch_size=cfg.batch_size, shard_index=index, shard_count=count)

    @functools.cached_property
    def evaluated(self) -> dict[str, Any]:
        """The batches of each evaluation by its name: 'valid', all of that split; of a mixture also each source.

        A source whose documents alone are too few to make a sample of is left out, which the log says.
        """
        found = {"valid": self._batches(self.data, "valid")}
        for name, part in dataset.by_source(self.data).items():
            try:
                found[name] = self._batches(part, "valid")
            except ValueError as error:
                log.warning("no evaluation of the source %s by itself: %s", name, error)
        return found

    @functools.cached_property
    def known_bytes(self) -> np.ndarray | None:
        """[n] bytes of text that each id of the tokenizer stands for.

        None where there are no bits per byte to tell: nothing predicted is text, or the tokenizer does not keep all of
        its text, which the log says.
        """
        if not self.cfg.task.predicts_text:
            return None
        try:
            return self.data.tokenizer.token_bytes
        except ValueError as error:
            log.info("no bits per byte: %s", error)
            return None

    @functools.cached_property
    def token_bytes(self) -> np.ndarray | None:
        """[vocab_size] `known_bytes`, 0 for ids that the tokenizer lacks."""
        known = self.known_bytes
        return None if known is None else np.pad(known, (0, self.cfg.model.vocab_size - len(known)))

    @functools.cached_property
    def eval_step(self):
        """The compiled evaluation step (params, batch, watched) -> sums."""
        step = eval_step(self.model, self.token_bytes, task=self.cfg.task, loss=self.cfg.loss)
        return jax.jit(step, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def prompt(self, text: str) -> list[int]:
        """The ids of a prompt; of a run on conversations as what a user says."""
        words = self.data.tokenizer
        return conversations.question(words, text) if self.cfg.data.kind == "chat" else words.prompt(text)

    @functools.cached_property
    def watched(self) -> np.ndarray:
        """[n] the ids of which an evaluation tells to which experts they go."""
        return specialisation.commonest(self.data.splits["valid"].tokens)


def take_turns(cfg: experiment.Config) -> None:
    """Asks XLA for what the model's layers need on a CPU: before anything has looked for devices."""
    layers = (layer for stack in mixtures.stacks(cfg.model).values() for layer in stack.blocks)
    cpu_devices.take_turns(transforms=any(sublayer.transforms for layer in layers for sublayer in layer.sublayers))


def prepare(cfg: experiment.Config, workdir, *, all_valid: bool = False) -> Setup:
    """Checks, tokenises and traces.

    Args:
      cfg: of the run.
      workdir: its folder.
      all_valid: all of the text is there to validate, none to train on, and nothing of it is written.

    Raises:
      ValueError: the config contradicts itself, the devices, the corpus, or what the workdir holds.
      OSError: the workdir cannot be written.
    """
    workdir = pathlib.Path(workdir)
    take_turns(cfg)
    mesh = meshes.make(cfg.mesh)
    _check_devices(cfg, mesh)
    capacity.batch_must_fit(cfg, mesh)
    check_writable(workdir)
    check_same(cfg, workdir)
    data = functools.cache(lambda: _data(cfg, workdir, all_valid=all_valid))
    cfg.task.must_suit(cfg.model, seq_len=cfg.seq_len)
    _must_read(cfg)
    routes.must_replay(cfg)
    if cfg.sample_prompt:
        must_predict(cfg.model, f"sample_prompt={cfg.sample_prompt!r}: it")
        stages.must_be_one(mesh, f"sample_prompt={cfg.sample_prompt!r}")
    cfg = cfg.resolve(lambda: _epoch_samples(cfg, data()))
    _check_samples(cfg)
    model = cfg.model.make()
    disk = Disk(workdir / "optimizer") if cfg.optimizer.offload == "disk" else None
    optimizer = cfg.optimizer.make(cfg.total_steps, lambda: states.axes(model), disk)
    with jax.set_mesh(mesh):
        plan = states.plan(model, optimizer, mesh, states.beside(cfg))
    data = data()
    if data.tokenizer.size > cfg.model.vocab_size:
        raise ValueError(
            f"model.vocab_size={cfg.model.vocab_size} must be at least {data.tokenizer.size}, the tokenizer's size"
        )
    cfg.task.must_fit(cfg.model, data)
    ready = Setup(cfg, workdir, mesh, data, model, optimizer, plan, disk)
    if "train" in data.splits:
        ready.dataset("train")  # refuses a text or a tokenizer that the task cannot take, a seq_len that is too long
    _check_best_metric(ready)
    if cfg.sample_prompt:
        _must_sample(ready)
    if meshes.context_shards(mesh) > 1:
        _must_split(ready)
    return ready


def _must_sample(ready: Setup) -> None:
    """Raises ValueError when the sample's tokens are more than the model has positions."""
    prompt = ready.cfg.sample_prompt
    try:
        generate.must_fit(ready.cfg.model, [ready.prompt(prompt)], ready.cfg.sample)
    except ValueError as error:
        raise ValueError(f"sample_prompt={prompt!r} with sample: {error}") from None


def _must_split(ready: Setup) -> None:
    """Raises ValueError when a layer cannot take the rows' parts: known only where their real length is traced."""
    many = jax.process_count()
    rows = next(iter(ready.evaluated.values()))[0]
    batch = {name: jax.ShapeDtypeStruct((many * len(row), *row.shape[1:]), row.dtype) for name, row in rows.items()}
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), ready.plan.abstract.params)
    with jax.set_mesh(ready.mesh):
        jax.eval_shape(ready.eval_step, params, batch, ready.watched)


def must_predict(model_cfg: Any, what: str = "this mode") -> None:
    """Raises ValueError when a model does not give the logits of each next token, which `what` is about."""
    if not isinstance(model_cfg, decoder.Config):
        name = type(model_cfg).__module__.rsplit(".", 1)[-1]
        raise ValueError(f"model.name={name!r} must be 'decoder' here: {what} is about the next token")


def _must_read(cfg: experiment.Config) -> None:
    """Raises ValueError when the task learns from other data."""
    name = type(cfg.task).__module__.rsplit(".", 1)[-1]
    if cfg.task.draws and cfg.data != dataset.Config():
        changed = provenance.diff(config.to_dict(dataset.Config()), config.to_dict(cfg.data))
        raise ValueError(f"data.{changed[0]}: it must be left out with task.name={name!r}, which draws its own rows")
    if cfg.data.kind != cfg.task.kind:
        raise ValueError(f"data.kind={cfg.data.kind!r} must be {cfg.task.kind!r} with task.name={name!r}")


def _check_best_metric(ready: Setup) -> None:
    """Raises ValueError when no evaluation gives the metric that the best checkpoints are chosen by."""
    cfg, names = ready.cfg, []
    for name, batches in ready.evaluated.items():
        terms = jax.eval_shape(cfg.task.weights, batches[0])
        num_bytes = None if ready.known_bytes is None else 0.0
        zeros = {"bytes": num_bytes, "terms": dict.fromkeys(terms, dict.fromkeys(("nats", "correct", "weight"), 0.0))}
        names += [f"eval/{name}/{metric}" for metric in summary(cfg.task, zeros)]
    if cfg.checkpoints.keep_best and cfg.checkpoints.best_metric not in names:
        raise ValueError(
            f"checkpoints.best_metric={cfg.checkpoints.best_metric!r} must be one of the run's: {', '.join(names)}"
        )


def _epoch_samples(cfg: experiment.Config, data: dataset.Tokenized) -> int:
    """Samples of an epoch of training (of validation where there is nothing to train on)."""
    split = "train" if "train" in data.splits else "valid"
    return cfg.task.samples(data, split, seq_len=cfg.seq_len).samples_per_epoch


def check_same(cfg: experiment.Config, workdir) -> None:
    """Refuses to go on with a run whose architecture or data were others.

    Raises:
      ValueError: naming each leaf that changed, with its old and new value.
    """
    workdir = pathlib.Path(workdir)
    old = provenance.read_config(workdir)
    if old is None or not started(workdir):
        return
    old = {"task": {"name": "next_token"}} | old  # before there were tasks
    new = config.to_dict(cfg)
    changed = provenance.diff({key: old.get(key) for key in experiment.FIXED}, {k: new[k] for k in experiment.FIXED})
    changed = [line for line in changed if line.split(":")[0].rsplit(".", 1)[-1] not in experiment.FREE]
    if changed:
        raise ValueError(
            f"the run in {workdir} cannot go on with another config: {'; '.join(changed)}. Undo the change, or take "
            "another workdir (init_from starts it from this run's parameters)"
        )


def _check_devices(cfg: experiment.Config, mesh: Mesh) -> None:
    meshes.process_shard(mesh, cfg.batch_size)
    rows = cfg.batch_size // cfg.micro_batches
    if rows % meshes.batch_shards(mesh):
        raise ValueError(
            f"batch_size={cfg.batch_size} / micro_batches={cfg.micro_batches} = {rows} rows must be a multiple of "
            f"{meshes.BATCH_SHARDS} = {meshes.batch_shards(mesh)}"
        )
    stages.must_divide(cfg.model, rows, mesh)
    meshes.must_split(cfg.seq_len, mesh)
    for layers in mixtures.stacks(cfg.model).values():
        for sublayer in dict.fromkeys(sublayer for layer in layers.blocks for sublayer in layer.sublayers):
            block.must_split(sublayer, meshes.context_shards(mesh))
    remat = getattr(getattr(cfg.model, "layers", None), "remat", "none")
    if remat == "offload":
        _check_offload("model.layers.remat='offload'", mesh.devices.flat[0])
    if cfg.optimizer.offload == "host":
        _check_offload("optimizer.offload='host'", mesh.devices.flat[0])
    if cfg.optimizer.offload == "disk" and jax.process_count() > 1:
        raise ValueError(f"optimizer.offload='disk' must run in one process, and not in {jax.process_count()}")


def _check_samples(cfg: experiment.Config) -> None:
    if cfg.total_steps * cfg.batch_size > dataset.MAX_SAMPLES:
        raise ValueError(
            f"total_steps={cfg.total_steps} times batch_size={cfg.batch_size} must be at most {dataset.MAX_SAMPLES}"
        )


def _check_offload(field: str, device: jax.Device) -> None:
    if offload.HOST not in {memory.kind for memory in device.addressable_memories()}:
        raise ValueError(f"{field} must run on devices with pinned host memory; {device.device_kind} has none")


def check_writable(workdir: pathlib.Path) -> None:
    """Makes a folder if there is none. Raises OSError if it cannot be made, or written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"workdir cannot be made: {error.strerror}", str(workdir)) from None
    probe = workdir / f".writable-{jax.process_index()}"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, f"workdir cannot be written: {error.strerror}", str(workdir)) from None


def started(workdir: pathlib.Path) -> bool:
    """Whether a run in this folder has got as far as a checkpoint."""
    return any((workdir / "checkpoints").glob("[0-9]*"))


def _data(cfg: experiment.Config, workdir: pathlib.Path, *, all_valid: bool) -> dataset.Tokenized:
    """The rows that the task draws, or the tokenised corpus: process 0 makes it, the others wait and open it.

    Other data than the config asks for is kept if a checkpoint was trained on it (and refused), else made anew.
    """
    if cfg.task.draws:
        return cfg.task.own_data()
    if all_valid:
        return dataset.all_valid(cfg.data)
    folder = workdir / "data"
    if jax.process_index() == 0:
        if folder.exists() and not started(workdir):
            try:
                dataset.load(folder, cfg.data)
            except ValueError:
                shutil.rmtree(folder)
        data = dataset.prepare(cfg.data, folder)
    if jax.process_count() == 1:
        return data
    multihost_utils.sync_global_devices("arch_corpus_tokenised")
    return dataset.load(folder, cfg.data)
