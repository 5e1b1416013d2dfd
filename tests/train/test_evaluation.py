"""What an evaluation tells: of each task its own means, of a mixture each source's too; and what ranks checkpoints."""

import math

import jax
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from arch.data import dataset, tokenized
from arch.data.foreign_tokenizer import Foreign, Roles
from arch.tasks import masked_tokens, next_token
from arch.train import evaluation, objective
from arch.train import state as states
from tests.train import tiny, tiny_tasks

TOKENS = {"nats": 6.0, "correct": 3.0, "weight": 4.0}


def test_a_text_has_perplexity_and_bits_per_byte():
    out = objective.summary(next_token.Config(), {"terms": {"tokens": TOKENS}, "bytes": 5.0})
    bits = 6.0 / math.log(2) / 5
    assert out == pytest.approx({"loss": 1.5, "accuracy": 0.75, "ppl": math.exp(1.5), "bits_per_byte": bits})


def test_two_terms_add_up_and_are_told_apart():
    terms = {"tokens": TOKENS, "next_sentence": {"nats": 1.0, "correct": 1.0, "weight": 2.0}}
    out = objective.summary(masked_tokens.Config(next_sentence=True), {"terms": terms, "bytes": 5.0})
    assert (out["loss"], out["accuracy"], out["ppl"]) == (2.0, 0.75, math.exp(1.5))
    assert (out["next_sentence_loss"], out["next_sentence_accuracy"]) == (0.5, 0.5)


def test_classes_are_no_text():
    class Classes(next_token.Config):
        predicts_text = False

    assert objective.summary(Classes(), {"terms": {"tokens": TOKENS}, "bytes": None}).keys() == {"loss", "accuracy"}


def test_a_text_of_unknown_bytes_has_no_bits_per_byte():
    out = objective.summary(next_token.Config(), {"terms": {"tokens": TOKENS}, "bytes": None})
    assert out.keys() == {"loss", "accuracy", "ppl"}


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    """The folder of a tokenizer as BERT's, which drops spaces."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "aehilnoprsuwy")]
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(words[:4])
    folder = tmp_path_factory.mktemp("wordpiece")
    Foreign(made, Roles(sep_token="[SEP]", mask_token="[MASK]")).save(folder)
    return folder


def test_a_tokenizer_that_drops_spaces_trains_and_evaluates_without_bits_per_byte(
    text, wordpiece, quick, tmp_path, caplog
):
    own = {"data.tokenizer": dict(kind="pretrained", path=str(wordpiece), separator=""), "data.piece_chars": 197}
    cfg = tiny_tasks.config(text, "masked", total_steps=1, **own, **{"optimizer.warmup_steps": 0})
    with caplog.at_level("INFO", logger="arch"):
        tiny.train(cfg, tmp_path)
    assert "no bits per byte: tokenizer of kind WordPiece must keep spaces" in caplog.text
    told = {name: value for _, name, value in tiny.curve(tmp_path)}
    assert {"train/nats_per_token", "eval/valid/loss", "eval/valid/ppl"} < told.keys()
    assert not [name for name in told if name.endswith("bits_per_byte")]
    assert math.isfinite(told["eval/valid/loss"])


def test_a_loss_beyond_all_numbers_has_an_infinite_perplexity():
    terms = {"tokens": TOKENS | {"nats": 4000.0}}
    assert objective.summary(next_token.Config(), {"terms": terms, "bytes": 5.0})["ppl"] == math.inf


@pytest.fixture(scope="module")
def mixed(text, tmp_path_factory):
    """A prepared run on two sources, of which one has the other's name."""
    other = tiny.write_text(tmp_path_factory.mktemp("other") / "text.jsonl.txt", seed=1)
    parts = tuple({"path": str(path), "weight": 1.0, "piece_chars": 67} for path in (text, other))
    cfg = tiny.config(text, **{"data.path": "", "data.piece_chars": 8192, "data.mixture": parts, "eval_batches": 0})
    return tiny.prepare(cfg, tmp_path_factory.mktemp("mixed"))


def test_each_source_of_a_mixture_is_evaluated_by_its_name(mixed, quick):
    state = states.init(mixed.model, mixed.optimizer, mixed.plan, jax.random.key(0))
    with jax.set_mesh(mixed.mesh):
        metrics = evaluation.evaluate(mixed, state.params)
    assert {name.split("/")[1] for name in metrics} == {"valid", "text", "text-1"}
    low, high = sorted(metrics[f"eval/{name}/loss"] for name in ("text", "text-1"))
    assert low - 0.01 < metrics["eval/valid/loss"] < high + 0.01  # windows that hold the border are of neither


def test_a_source_that_is_too_small_to_be_evaluated_alone_is_named_in_the_log(text, tmp_path, caplog):
    small = tmp_path / "small.txt"
    small.write_text("three documents " * 18)  # of which one is for validation, and would want another to be paired
    parts = tuple({"path": str(path), "weight": 1.0, "piece_chars": 97} for path in (text, small))
    cfg = tiny_tasks.config(text, "pairs", **{"data.path": "", "data.piece_chars": 8192, "data.mixture": parts})
    ready = tiny.prepare(cfg, tmp_path / "run")
    assert ready.evaluated.keys() == {"valid", "text"}
    rule = "1 documents of two tokens or more must be at least 2, to pair them (valid, small)"
    assert {*caplog.messages} == {f"no evaluation of the source small by itself: {rule}"}


def test_the_sources_documents_are_those_of_the_split(mixed):
    whole, parts = mixed.data.splits["valid"], dataset.by_source(mixed.data)
    assert sum(len(part.splits["valid"].tokens) for part in parts.values()) == len(whole.tokens)


def test_a_single_source_has_no_name_of_its_own(text, tmp_path):
    data = tokenized.prepare(tokenized.Config(path=str(text), piece_chars=97), tmp_path / "data")
    assert dataset.by_source(data) == {}


def test_a_metric_that_no_evaluation_gives_is_refused_with_those_that_there_are(text, tmp_path):
    cfg = tiny_tasks.config(text, "pairs", **{"checkpoints.best_metric": "eval/loss"})
    with pytest.raises(ValueError, match="best_metric='eval/loss' must be one of the run's: eval/valid/loss, .*next_s"):
        tiny.prepare(cfg, tmp_path)


def test_a_metric_that_ranks_nothing_may_have_any_name(text, tmp_path):
    cfg = tiny.config(text, **{"checkpoints.best_metric": "eval/loss", "checkpoints.keep_best": 0})
    assert tiny.prepare(cfg, tmp_path).cfg.checkpoints.keep_best == 0


def test_samples_of_text_are_refused_where_there_is_no_next_token(text, tmp_path):
    cfg = tiny_tasks.config(text, "spans", sample_prompt="all ")
    with pytest.raises(ValueError, match="model.name='encoder_decoder' must be 'decoder' here"):
        tiny.prepare(cfg, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "spans"])
def test_the_loss_of_a_trained_task_falls(kind, quick, text, tmp_path):
    metrics = tiny.train(tiny_tasks.config(text, kind, total_steps=30), tmp_path)
    losses = tiny.losses(tmp_path)
    assert losses[-1] < losses[0] - 1
    assert metrics["eval/valid/loss"] < losses[0] - 1 and 0 < metrics["eval/valid/accuracy"] < 1
