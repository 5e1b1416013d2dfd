"""Training on short rows, reading long ones: bits per byte against the length, by the position scheme."""

from experiments import evaluation
from experiments.claim import Claim, Expectation, by, spread
from experiments.figure import Line, Panel

TIMES = (1, 2, 4, 8)
"""Lengths, in units of that of training."""
TOKENS = 32768


def rows(point):
    """Bits per byte at each length."""
    trained = point.result.config["seq_len"]
    found = evaluation.at_lengths(point, [times * trained for times in TIMES], tokens=min(TOKENS, 512 * trained))
    bits = {str(length): round(metrics["eval/valid/bits_per_byte"], 4) for length, metrics in found.items()}
    return [dict(position=point.options["position"], seed=point.result.config["seed"], trained=trained, bits=bits)]


def curve(some):
    """{length: mean bits} of rows of one scheme."""
    return {int(length): sum(row["bits"][length] for row in some) / len(some) for length in some[0]["bits"]}


def table(rows, paper):
    """Bits per byte: mean, least and greatest over the seeds."""
    return [
        {"positions": position}
        | {f"{length} bytes": spread([row["bits"][length] for row in some], ".3f") for length in some[0]["bits"]}
        for position, some in by(rows, "position").items()
    ]


def figure(rows, paper):
    """One panel, a line a scheme."""
    lines = [Line(position, list(curve(some).items())) for position, some in by(rows, "position").items()]
    return [Panel(f"Bits per byte, trained on rows of {rows[0]['trained']}", "bytes of a row", lines, log_x=True)]


def expect(rows, paper):
    """ALiBi gains or keeps, the others lose, sinusoidal positions most."""
    curves = {position: curve(some) for position, some in by(rows, "position").items()}
    trained = rows[0]["trained"]
    last = max(curves["alibi"])
    gain = {position: found[last] - found[trained] for position, found in curves.items()}
    says = {position: f"{value:+.3f} bits from {trained} to {last} bytes" for position, value in gain.items()}
    order = [curves[position][last] for position in ("alibi", "rope", "sinusoidal")]
    return [
        Expectation("ALiBi is no worse on rows eight times as long", gain["alibi"] <= 0, says["alibi"]),
        Expectation("rotary positions lose", gain["rope"] > 0.05, says["rope"]),
        Expectation("sinusoidal positions lose", gain["sinusoidal"] > 0.05, says["sinusoidal"]),
        Expectation(
            "on the longest rows ALiBi is best and sinusoidal positions are worst",
            order == sorted(order),
            ", ".join(f"{bits:.3f}" for bits in order),
        ),
    ]


CLAIM = Claim(
    title="Train short, test long: ALiBi, rotary and sinusoidal positions",
    claim="""Press et al., 2021 (arXiv 2108.12409): a model with ALiBi reads rows longer than those of its training with
no loss, or with a gain: trained on 512 tokens of WikiText-103 it has a perplexity of 19.73 at 512 and of 18.40 at 3072.
With sinusoidal positions perplexity explodes, with rotary ones it degrades.""",
    setup="""The same transformer with each scheme, evaluated on rows of 1, 2, 4 and 8 times the length of training, the
same text at each. ALiBi and rotary positions act in attention, sinusoidal ones are added to the embeddings. Two seeds;
in brackets the least and the greatest of both.""",
    sizes={
        "small": """2 layers, width 64, 4 heads; 400 steps of 16 rows of 64 bytes of the Python standard library's
source, AdamW at a rate of 0.004; bits per byte of 32768 held-out bytes. The paper trains 16 layers of width 1024 for
205 epochs of WikiText-103 on 512 to 3072 tokens: only the ordering is compared.""",
        "paper": """16 layers, width 1024, 8 heads, 205 epochs on rows of 512, of the reader's own copy of WikiText-103
(`--config.data.path=FOLDER`), as bytes. The paper has a vocabulary of words with adaptive embeddings, which are not
here.""",
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="Validation bits per byte against the length of the rows, means over the seeds.",
    expect=expect,
    remarks={
        "small": """Rotary positions are best at the length of training and up to twice that, ALiBi beyond; in so short
a run sinusoidal positions are behind both at every length. The points were run on a busy machine, so that the times say
little, and with `XLA_FLAGS="--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"`, which
compile faster."""
    },
)
