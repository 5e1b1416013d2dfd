"""Tiny runs of the tasks that are not the next token: masked tokens, pairs of texts, cut spans; on a text of bytes.

Sizes are distinct, and divisible by 8 where a mesh axis may split them.
"""

from arch.data import dataset
from arch.train import experiment
from tests.train import tiny

BOTH_WAYS = tiny.ATTENTION | dict(causal=False)
CROSS = dict(name="cross_attention", num_heads=8, head_dim=4)
ENCODER = dict(pattern=(dict(sublayers=(BOTH_WAYS, tiny.MLP)),))
DECODER = dict(pattern=(dict(sublayers=(tiny.ATTENTION, CROSS, tiny.MLP)),))
WIDTHS = dict(vocab_size=264, embed_dim=24)
BERT = dict(name="encoder", layers=ENCODER, **WIDTHS)

RUNS = {
    "masked": dict(model=BERT | dict(head=dict(name="masked_lm")), task=dict(name="masked_tokens")),
    "pairs": dict(
        model=BERT | dict(head=dict(name="pretraining"), token_types=2),
        task=dict(name="masked_tokens", next_sentence=True),
    ),
    "spans": dict(
        model=dict(name="encoder_decoder", encoder=ENCODER, decoder=DECODER, **WIDTHS),
        task=dict(name="span_corruption", num_sentinels=3),
    ),
}
SPECIALS = ("[MASK]", "[CLS]", "[SEP]", *(f"<extra_id_{i}>" for i in range(3)))


def fields(kind: str) -> dict:
    """Ten steps, evaluated at the end."""
    return RUNS[kind] | dict(
        data=dict(piece_chars=97, tokenizer=dict(specials=SPECIALS)),
        optimizer=dict(learning_rate=0.03, warmup_steps=3),
        total_steps=10,
        batch_size=8,
        seq_len=29,
        log_every_steps=1,
        eval_batches=2,
    )


def config(text, kind: str, **changes) -> experiment.Config:
    """The frozen config on this text, with these leaves changed."""
    values = fields(kind)
    values["data"] = values["data"] | {"path": str(text)}
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = values
        for key in parents:
            node[key] = dict(node.get(key, {}))
            node = node[key]
        node[last] = value
    return experiment.from_dict(values)


def batches(cfg: experiment.Config, data: dataset.Tokenized, split: str = "train", **shard):
    """The batches of a run, by step, without their ids."""
    samples = cfg.task.samples(data, split, seq_len=cfg.seq_len, seed=cfg.seed)
    made = dataset.make(samples, batch_size=cfg.batch_size, **shard)
    return lambda step: dataset.without_ids(made[step])
