"""A small T5, pretrained: spans of the text are cut out of the encoder's input, and the decoder writes them.

Source:    Raffel et al., T5, 2019, arXiv 1910.10683, sec. 3.1.4 and 3.3.4 (15 % of the tokens, spans of 3 on average),
           in small; layers of version 1.1 (gated), AdamW instead of Adafactor.
Text:      the Python standard library's own source, 7 MB, or --config.data.path=FILE_OR_FOLDER.
Command:   python run.py --config=configs/t5.py --workdir=runs/t5
Hardware:  2 CPU cores
Time:      278 s of processor time beside other work; benchmarks/results/tasks-cpu.json
Expected:  validation loss 4.883, accuracy 0.282 and 2.991 bits per byte of what is cut out (seed 0, one run); an
           untrained model has a loss of 8.125
"""

from arch import config
from arch.families import t5
from arch.train import experiment

VOCAB_SIZE = 2048
NUM_SENTINELS = 16


def get_config(arg=""):
    """The run's config."""
    config.parse_arg(arg)
    sentinels = tuple(f"<extra_id_{i}>" for i in range(NUM_SENTINELS))
    widths = dict(embed_dim=128, hidden_dim=256, num_heads=4, head_dim=32, vocab_size=VOCAB_SIZE)
    return experiment.config_dict(
        model=t5.compose(num_layers=2, gated=True, activation="gelu_tanh", tie_embeddings=False, **widths),
        task=dict(name="span_corruption", num_sentinels=NUM_SENTINELS),
        data=dict(tokenizer=dict(kind="bpe", vocab_size=VOCAB_SIZE, specials=sentinels)),
        optimizer=dict(learning_rate=3e-3, warmup_steps=50, final_share=0.0, b2=0.98),
        total_steps=400,
        batch_size=32,
        seq_len=128,
        log_every_steps=20,
        eval_batches=16,
        checkpoint_every_steps=200,
    )
