"""Selective copying: accuracies of mixers, beside those of table 1 of the Mamba paper."""

from experiments.claim import Claim, Expectation
from experiments.figure import Line, Panel

LEARNED = 0.97


def rows(point):
    """Accuracies at the end and at each evaluation before."""
    evaluated = [line for line in point.logged() if "eval/valid/accuracy" in line]
    by_step = {str(line["step"]): round(line["eval/valid/accuracy"], 4) for line in evaluated}
    accuracy = round(point.last["eval/valid/accuracy"], 4)
    return [dict(mixer=point.options["mixer"], accuracy=accuracy, seed=point.result.config["seed"], by_step=by_step)]


def table(rows, paper):
    """Accuracies in percent; the paper's by the block around the mixer."""
    theirs = {row["mixer"]: row for row in paper}
    blocks = {"no gate": "no_gate", "H3's block": "h3", "Mamba's block": "mamba"}
    lines = []
    for row in rows:
        printed = theirs.get(row["mixer"], {})
        lines.append({"mixer": row["mixer"], "ours": f"{row['accuracy']:.1%}"})
        lines[-1] |= {f"paper, {name}": f"{printed[key]:.1f}%" for name, key in blocks.items() if key in printed}
    return lines


def figure(rows, paper):
    """Accuracy against steps."""
    curve = lambda row: [(int(step), accuracy) for step, accuracy in row["by_step"].items()]
    return [Panel("Accuracy on the letters", "training step", [Line(row["mixer"], curve(row)) for row in rows])]


def expect(rows, paper):
    """Mamba copies, the others, whose kernels do not depend on the tokens, do not."""
    found = {row["mixer"]: row["accuracy"] for row in rows}
    others = [name for name in found if name != "mamba"]
    return [
        Expectation("Mamba learns to copy", found["mamba"] >= LEARNED, f"{found['mamba']:.1%}"),
        *(Expectation(f"{name} does not", found[name] < LEARNED, f"{found[name]:.1%}") for name in others),
        Expectation(
            "Mamba is at least 30 points above each of them, as in the paper",
            all(found["mamba"] - found[name] >= 0.3 for name in others),
            ", ".join(f"{found['mamba'] - found[name]:+.1%}" for name in others),
        ),
    ]


CLAIM = Claim(
    title="Selective copying: Mamba, S4D and Hyena",
    claim="""Gu and Dao, 2023 (arXiv 2312.00752, table 1): to copy letters that stand at random places among noise a
recurrence must choose by the token what it keeps. Mamba's selective scan does; S4 and Hyena, whose kernels are the same
whatever the tokens are, do not, unless a gate around them chooses.""",
    setup="""Two layers of one mixer each, with norms and nothing between; the rows are those of
`arch/tasks/selective_copying.py`: letters of 15 kinds among noise, a sign, and the letters again, each read before the
next is asked for. The accuracy is that on the letters behind the sign of 500 rows; chance has 6.7 %. S4D is the layer
of its released code, a gated product over channels behind the recurrence; Hyena has its gates.""",
    sizes={
        "small": """6 letters among 48 symbols instead of 16 among 4096, width 32 instead of 64, 2000 steps of 32 rows
instead of 400 000 of 64, at a rate of 0.003 instead of 0.0001. No row is drawn twice. One seed.""",
        "paper": """The paper's lengths, steps and rates; of rows 20 000 are drawn, where the paper draws each step's
anew.""",
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="Accuracy on the letters of 500 rows after each fifth of a run.",
    expect=expect,
    remarks={
        "small": """With so few letters in so short rows more of the task can be done without choosing than in the
paper's, and each answer is read before the next is asked for. The points were run on a busy machine, so that the times
say little, and with `XLA_FLAGS="--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"`, which
compile faster."""
    },
)
