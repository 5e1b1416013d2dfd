"""The tasks on labelled data: what their losses count, what they do with padding, and which models they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import config
from arch.data import dataset, rows, tokenized
from arch.layers import token_loss
from arch.layers.weight import unbox
from arch.models import encoder
from arch.ops.loss import mean_cross_entropy
from arch.positions import learned
from arch.tasks import _documents
from arch.train import experiment, objective
from tests.train import tiny_labelled

TASKS = ("classification", "tagging", "chat")


class Run:
    """A tiny run's config, data, model and first two batches."""

    def __init__(self, task, folder):
        cfg = tiny_labelled.fields(task)
        path = tiny_labelled.write(folder / "records.jsonl", task)
        self.cfg = experiment.from_dict(cfg | {"data": cfg["data"] | {"path": str(path)}})
        self.data = tokenized.prepare(self.cfg.data, folder / "data")
        self.model = self.cfg.model.make()
        self.params = unbox(jax.jit(self.model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])

    def batch(self, split="train", step=0, batch_size=5):
        samples = self.cfg.task.samples(self.data, split, seq_len=self.cfg.seq_len)
        return dataset.without_ids(dataset.make(samples, batch_size=batch_size)[step])

    def loss(self, batch, of_token=token_loss.Config()):
        """The objective of a batch, and its gradient's squared norm."""
        found, gradient = self._value_and_grad(of_token)(self.params, jax.tree.map(jnp.asarray, batch))
        return float(found), sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(gradient))

    @functools.cache
    def _value_and_grad(self, of_token):
        def value(params, batch):
            task, totals = self.cfg.task, objective.totals(self.cfg.task, batch)
            return objective.objective(self.model, params, batch, totals, None, task=task, loss=of_token)[0]

        return jax.jit(jax.value_and_grad(value))


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory):
    return Run(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return Run("chat", tmp_path_factory.mktemp("chat"))


def test_the_loss_is_the_mean_over_what_has_a_label(run):
    batch = run.batch()
    labels = np.where(batch["weights"] > 0, batch["targets"], -100)
    labels = labels[:, 0] if run.cfg.task.kind == "classes" else labels
    fields = {name: jnp.asarray(batch[name]) for name in objective.CONTEXT if name in batch}
    logits = jax.jit(run.model.apply)({"params": run.params}, batch["tokens"], objective.Context(**fields)).x
    assert run.loss(batch)[0] == pytest.approx(float(mean_cross_entropy(logits, jnp.asarray(labels))), rel=1e-5)


def test_rows_of_padding_change_neither_loss_nor_gradient(run):
    batch = run.batch()
    padded = {name: np.concatenate([rows, np.zeros_like(rows[:3])]) for name, rows in batch.items()}
    assert np.allclose(run.loss(padded), run.loss(batch), rtol=1e-5)


def test_the_last_batch_of_validation_is_finite_and_counts_its_rows_alone(run):
    samples = run.cfg.task.samples(run.data, "valid", seq_len=run.cfg.seq_len)
    size = samples.samples_per_epoch + 3
    assert np.isfinite(run.loss(run.batch("valid", 0, size))).all()
    weight = run.cfg.task.weights({"weights": jnp.asarray(run.batch("valid", 0, size)["weights"])})
    labels = run.data.splits["valid"].columns["labels"]
    assert list(weight.values()) == [np.count_nonzero(labels > 0 if run.cfg.task.kind == "chat" else labels >= 0)]


def test_what_a_user_says_is_no_target_of_the_loss(chat):
    batch = chat.batch()
    other = batch | {"targets": np.where(batch["weights"] > 0, batch["targets"], 7).astype(np.int32)}
    assert (other["targets"] != batch["targets"]).any() and chat.loss(other) == chat.loss(batch)
    wrong = batch | {"targets": np.where(batch["weights"] > 0, 7, batch["targets"]).astype(np.int32)}
    assert chat.loss(wrong) != chat.loss(batch)


def test_the_weights_of_a_conversation_are_those_made_by_hand(chat):
    samples = chat.cfg.task.samples(chat.data, "valid", seq_len=chat.cfg.seq_len)
    row, words = samples[0], chat.data.tokenizer
    first = row["segment_ids"] == 1
    text = words.decode(row["tokens"][first])
    one, other = text.split("\n")[1].removesuffix("assistant"), text.split("\n")[3].removesuffix("assistant")
    spelled = f"user\n{one}|assistant\n<{one}!|>user\n{other}|assistant\n<no|>"  # | separates, < and > are no text
    wanted, inside = [], False
    for letter in spelled:
        inside = inside if letter not in "<>" else letter == "<"
        wanted += [] if letter in "<>" else [float(inside)]
    assert row["weights"][first].tolist() == wanted


def test_conversations_beside_each_other_do_not_see_each_other(chat):
    samples = chat.cfg.task.samples(chat.data, "train", seq_len=chat.cfg.seq_len)
    row = next(sample for sample in map(samples.__getitem__, range(99)) if sample["segment_ids"].max() > 1)
    changed = row | {"tokens": np.where(row["segment_ids"] == 1, 7, row["tokens"]).astype(np.int32)}
    alone = {"weights": np.where(row["segment_ids"] == 2, row["weights"], 0).astype(np.float32)}
    losses = [chat.loss({name: array[None] for name, array in (one | alone).items()})[0] for one in (row, changed)]
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("task", TASKS)
def test_the_tiny_models_suit_as_far_as_their_positions_reach(task):
    cfg = experiment.from_dict(tiny_labelled.fields(task))
    cfg.task.must_suit(cfg.model, seq_len=43)
    with pytest.raises(ValueError, match="seq_len=43 must be at most 42"):
        cfg.task.must_suit(cfg.model.replace(position=learned.Config(length=42)), seq_len=43)


@pytest.mark.parametrize(
    "task, model, message",
    [
        ("classification", "chat", "model.name='decoder' must be 'encoder' with task.name='classification'"),
        ("chat", "tagging", "model.name='encoder' must be 'decoder' with task.name='chat'"),
        ("tagging", "classification", "model.head.name='classification' must be 'tagging' with task.name='tagging'"),
    ],
)
def test_another_model_or_head_is_named(task, model, message):
    cfg, other = (experiment.from_dict(tiny_labelled.fields(name)) for name in (task, model))
    with pytest.raises(ValueError, match=message):
        cfg.task.must_suit(other.model, seq_len=43)


def test_a_model_without_vectors_for_the_types_of_a_pair_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "a", "other": "b", "label": {i % 3}}}\n' for i in range(40)))
    cfg = config.from_dict(experiment.Config, tiny_labelled.fields("classification"))
    data = tokenized.prepare(cfg.data.replace(path=str(path), pair_field="other"), tmp_path / "data")
    with pytest.raises(ValueError, match="model.token_types=0 must be at least 2 for pairs of texts"):
        cfg.task.must_fit(cfg.model, data)
    model = cfg.model.replace(token_types=2)
    cfg.task.must_fit(model, data)
    sample = cfg.task.samples(data, "valid", seq_len=11)[0]
    assert isinstance(model, encoder.Config) and sample["token_types"].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert sample["tokens"][:5].tolist() == [256, ord("a"), 256, ord("b"), 256]


def test_how_many_documents_lose_an_end_is_logged_once(run, caplog):
    _documents.tell_once.cache_clear()  # of the other tasks
    with caplog.at_level("INFO", logger="arch"):
        for _ in range(2):
            made = run.cfg.task.samples(run.data, "train", seq_len=11)
    assert isinstance(made, rows.Rows) and made.truncated > 0
    assert caplog.messages == [
        f"train: {made.truncated} of {len(run.data.splits['train'].offsets) - 1} documents are longer than seq_len=11 "
        f"and lose an end, {made.unlabelled} of them all that has a label"
    ]


def test_of_a_mixture_the_source_whose_documents_lose_an_end_is_named(tmp_path, caplog):
    _documents.tell_once.cache_clear()
    parts = []
    for length in (3, 50):
        path = tmp_path / f"{length}.jsonl"
        path.write_text(f'{{"text": "{"a" * length}", "label": "x"}}\n' * 5)
        parts.append({"path": str(path)})
    cfg = experiment.from_dict(tiny_labelled.fields("classification") | {"data": {"kind": "classes", "mixture": parts}})
    data = tokenized.prepare(cfg.data, tmp_path / "data")
    with caplog.at_level("INFO", logger="arch"):
        cfg.task.samples(data, "train", seq_len=11)
    count = data.splits["train"].sources[1]
    assert caplog.messages == [
        f"train, mixture[1] {tmp_path / '50.jsonl'}: {count} of {count} documents are longer than seq_len=11 and lose "
        "an end, 0 of them all that has a label"
    ]


def test_label_smoothing_is_of_classes_too(run):
    batch = run.batch()
    assert run.loss(batch, token_loss.Config(label_smoothing=0.5))[0] != run.loss(batch)[0]


@pytest.mark.parametrize("task", TASKS)
def test_attention_that_looks_the_wrong_way_is_refused(task):
    right = task == "chat"
    names = (task, "tagging" if right else "chat")
    cfg, other = (experiment.from_dict(tiny_labelled.fields(name)) for name in names)
    rule = f"attention.causal={not right} of layer 0 must be {right} with task.name='{task}'"
    with pytest.raises(ValueError, match=rule):
        cfg.task.must_suit(cfg.model.replace(layers=other.model.layers), seq_len=43)
