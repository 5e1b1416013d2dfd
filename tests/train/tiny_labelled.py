"""Tiny runs on labelled data that can be learned in a few steps: a class, tags, answers that follow from the text."""

import json
import pathlib
import random

from arch.train import experiment
from tests.train import tiny, tiny_tasks

WORDS = "sun moon star rain snow wind".split()
ENCODER = dict(name="encoder", layers=tiny_tasks.ENCODER, position=dict(name="sinusoidal"), **tiny_tasks.WIDTHS)
LAYERS = dict(pattern=(dict(sublayers=(tiny.ATTENTION, tiny.MLP)),))
DECODER = dict(name="decoder", layers=LAYERS, **tiny_tasks.WIDTHS)

SEQ_LEN = {"classification": 19, "tagging": 19, "chat": 131}
"""Room for any document; for two conversations."""

RUNS = {
    "classification": dict(
        model=ENCODER | dict(head=dict(name="classification", num_labels=3)),
        data=dict(kind="classes"),
    ),
    "tagging": dict(
        model=ENCODER | dict(head=dict(name="tagging", num_labels=3)),
        data=dict(kind="tags", field="tokens", label_field="tags"),
    ),
    "chat": dict(model=DECODER, data=dict(kind="chat", field="messages")),
}


def records(task: str, count: int = 200) -> list[dict]:
    """Texts whose class is their first word's place among three, words whose tag is their length, and echoes."""
    draw = random.Random(0)
    texts = [draw.choices(WORDS, k=3) for _ in range(count)]
    if task == "classification":
        return [{"text": " ".join(words), "label": f"class {WORDS.index(words[0]) % 3}"} for words in texts]
    if task == "tagging":
        tags = {word: f"tag {i % 3}" for i, word in enumerate(WORDS)}
        return [{"tokens": words, "tags": [tags[word] for word in words]} for words in texts]
    said = [("user", "assistant", "user", "assistant"), *((one, f"{one}!", other, "no") for one, other, _ in texts)]
    return [{"messages": [{"role": r, "content": text} for r, text in zip(said[0], turn)]} for turn in said[1:]]


def write(file: pathlib.Path, task: str) -> pathlib.Path:
    """The records as JSON lines."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records(task)))
    return file


def fields(task: str) -> dict:
    """Sixty steps, evaluated and saved every thirty."""
    run = RUNS[task]
    return dict(
        model=run["model"],
        task=dict(name=task),
        data=run["data"] | dict(valid_fraction=0.2),
        optimizer=dict(learning_rate=0.02, warmup_steps=5),
        total_steps=60,
        batch_size=16,
        seq_len=SEQ_LEN[task],
        log_every_steps=10,
        eval_every_steps=30,
        checkpoint_every_steps=30,
    )


def get_config(arg: str):
    """For run.py: the argument is the task."""
    return experiment.config_dict(**fields(arg))
