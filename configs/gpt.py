"""A GPT of which depth is the one dial: `configs/gpt.py:d12` has 12 layers, and all else follows from that.

    width = 64 depth                                        heads of 64 channels; GPT-2 small and GPT-3 small lie on it
    vocabulary = 1024 depth, row = 128 depth tokens         the nearest powers of 2, in [2048, 65536] and [256, 2048]
    N = 12 depth width^2 + vocabulary width                 weights: 12 width^2 a layer, and the tied table
    D = 20 N                                                tokens of the run
    C = 6 N D                                               FLOPs of the run, without those of pairs of tokens
    rate = 0.3118 C^-0.1250,   batch = 0.2920 C^0.3271      the batch in tokens, its rows the nearest power of 2

Source:    D: Hoffmann et al., 2022, arXiv 2203.15556, sec. 3.4. Rate and batch: Bi et al., DeepSeek LLM, 2024, arXiv
           2401.02954, eq. 1, found from C = 1e17 on; below, where d1 to d8 lie, it is continued here. A vocabulary that
           grows with the model: Tao et al., 2024, arXiv 2407.13623. One dial for a run: Karpathy, nanochat, 2025.
Text:      the Python standard library's own source, 7 MB, which is 2 epochs for d1 and 6 for d2; more depth wants more
           text, --config.data.path=FILE_OR_FOLDER.
Command:   python run.py --config=configs/gpt.py:d1 --workdir=runs/d1       (add --mode=describe to look before)
Hardware:  2 CPU cores
Time:      4.6 minutes of CPU time, all cores together, for d1
Expected:  2.092 validation bits per byte of d1 (one seed); benchmarks/results/gpt-d1-cpu.json

Any leaf that follows from the depth can be overridden; the others stay as the depth has them: --config.batch_size=64.
"""

import math
import re

from arch import config
from arch.train import experiment

HEAD_DIM = 64


def get_config(arg=""):
    """The run of depth 1 to 96 that `arg` names: 'd12'."""
    depth = _depth(config.parse_arg(arg, depth="d2").depth)
    width = HEAD_DIM * depth
    vocab_size = _power_of_2(1024 * depth, 2048, 65536)
    seq_len = _power_of_2(128 * depth, 256, 2048)
    weights = 12 * depth * width**2 + vocab_size * width
    tokens = 20 * weights
    compute = 6 * weights * tokens
    attention = dict(name="attention", num_heads=depth, head_dim=HEAD_DIM, qk_norm=True)
    mlp = dict(name="mlp", hidden_dim=4 * width)
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=vocab_size,
            embed_dim=width,
            layers=dict(pattern=(dict(sublayers=(attention, mlp)),), repeats=depth),
        ),
        data=dict(tokenizer=dict(kind="bpe", vocab_size=vocab_size)),
        optimizer=dict(learning_rate=float(f"{learning_rate(compute):.3g}"), warmup_percent=2.0),
        total_tokens=tokens,
        batch_size=_power_of_2(batch_tokens(compute) / seq_len, 8, 65536),
        seq_len=seq_len,
        log_every_steps=20,
        eval_every_percent=10.0,
        checkpoint_every_percent=10.0,
        sample_prompt="def ",
    )


def learning_rate(compute):
    """The best one for a run of so many FLOPs."""
    return 0.3118 * compute**-0.1250


def batch_tokens(compute):
    """The best batch for a run of so many FLOPs, in tokens."""
    return 0.2920 * compute**0.3271


def _depth(text):
    found = re.fullmatch(r"d(\d+)", text)
    if not found or not 1 <= int(found[1]) <= 96:
        raise config.ConfigError(f"option depth={text!r} must be d1 to d96")
    return int(found[1])


def _power_of_2(value, low, high):
    """The power of 2 that is nearest by ratio, within bounds."""
    return min(max(2 ** round(math.log2(value)), low), high)
