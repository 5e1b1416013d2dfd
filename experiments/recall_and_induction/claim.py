"""Which mixers learn to look back: accuracies on associative recall and the induction head's task."""

import itertools

from experiments.claim import Claim, Expectation, by
from experiments.figure import Line, Panel
from experiments.recall_and_induction.config import MIXERS, TASKS

LEARNED = 0.97
"""Accuracy from which on a task counts as learned: "scores > 97", as the paper's released code says of H3."""


def rows(point):
    """Accuracies at the end and at each evaluation before."""
    evaluated = [line for line in point.logged() if "eval/valid/accuracy" in line]
    row = {name: round(point.last[f"eval/valid/{name}"], 4) for name in ("accuracy", "loss")}
    by_step = {str(line["step"]): round(line["eval/valid/accuracy"], 3) for line in evaluated}
    about = dict(steps=point.result.step, seed=point.result.config["seed"])
    return [dict(mixer=point.options["mixer"], task=point.options["task"]) | row | about | dict(by_step=by_step)]


def table(rows, paper):
    """Accuracies in percent, of each task ours and the paper's, bold where it is learned."""
    ours = dict.fromkeys(itertools.product(MIXERS, TASKS), "not run")
    ours |= {(row["mixer"], row["task"]): _percent(row["accuracy"]) for row in rows}
    theirs = {(row["mixer"], task): _percent(row[task] / 100) for row in paper for task in TASKS}
    sides = {"ours": ours, "paper": theirs}
    names = dict.fromkeys([*MIXERS, *(row["mixer"] for row in paper)])
    columns = [(task, whose) for task in TASKS for whose in sides]
    return [
        {"mixer": name} | {f"{task}, {whose}": sides[whose].get((name, task), "") for task, whose in columns}
        for name in names
    ]


def _percent(accuracy):
    return f"**{accuracy:.1%}**" if accuracy >= LEARNED else f"{accuracy:.1%}"


def figure(rows, paper):
    """A panel a task."""
    curve = lambda row: [(int(step), accuracy) for step, accuracy in row["by_step"].items()]
    by_task = {task: [Line(row["mixer"], curve(row)) for row in rows if row["task"] == task] for task in TASKS}
    return [Panel(f"Accuracy on {task}", "training step", by_task[task]) for task in TASKS if by_task[task]]


def expect(rows, paper):
    """Of each task: attention learns it, S4D does not, and all others do."""
    out = []
    for task, of_task in by(rows, "task").items():
        found = {row["mixer"]: row["accuracy"] for row in of_task}
        others = {name: accuracy for name, accuracy in found.items() if name not in ("attention", "s4d")}
        short = {name: accuracy for name, accuracy in others.items() if accuracy < LEARNED}
        out += [
            Expectation(f"attention learns {task}", found["attention"] >= LEARNED, f"{found['attention']:.1%}"),
            Expectation(f"S4D does not learn {task}", found["s4d"] < LEARNED, f"{found['s4d']:.1%}"),
            Expectation(
                f"the other {len(others)} mixers learn {task}",
                not short,
                ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in short.items()) or "all",
            ),
        ]
    return out


CLAIM = Claim(
    title="Associative recall and the induction head's task",
    claim="""Fu et al., 2022 (arXiv 2212.14052, sec. 3.1 and table 1): attention recalls what stood behind a key, or
behind a sign, earlier in the row; S4D, whose kernels are the same whatever the tokens are, does not. Theory expects
recall of all mixers here but S4D: what they keep of a token, or how they read it, depends on the tokens. Of linear
attention it expects least, since it forgets nothing and its weights are flat.""",
    setup="""Two layers of a mixer and a perceptron, width 32, hidden width 128. The rows are drawn as the paper's
released code draws them (`arch/tasks/associative_recall.py`, `arch/tasks/induction_head.py`): recall of 10 pairs of 4
keys and 4 values, with a map of each row's own; induction over 30 of 18 letters; 5000 rows to train, 500 to evaluate,
of which the answer alone counts. Each mixer is trained once, seed 0, rows of draw_seed 0. The numbers are accuracies on
the answers; bold from 97 % on, which is where the paper's released code says that a task is learned. A blank is a mixer
that one of the two does not have. Of recall, naming a row's commonest value without looking at the key is right in
51.2%.""",
    sizes={
        "small": """800 steps of 32 rows instead of 31 250 (recall) and 62 500 (induction), at a rate of 0.003 instead
of 0.0005; the loss is that of the answer alone instead of all symbols; no dropout instead of 0.1; embeddings start with
a standard deviation of 0.5 instead of 0.02. These were chosen in ten short runs of attention and Mamba, so that both
learn both tasks in fewer steps; nothing was tried for the other mixers, whose widths are those of `config.py`.""",
        "paper": "The paper's numbers throughout.",
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="Accuracy on 500 rows of each task after each fifth of a run.",
    expect=expect,
    remarks={
        "small": """S4D's recall is that of naming the commonest value; the paper's 86.0 is after 39 times as many
steps. Linear attention and Performer have positions, and more features than there are keys, and neither forgets: what
we expect is that elu + 1 is too flat to read one key of four, and that Performer's features approach attention's
weights only roughly where these are sharp; this was not examined. It is one seed of a tiny model in a short run: what
is not learned here may be learned in a longer one. All points were run on a machine so busy that times say nothing. The
expectations were written down after a first run, which had not all of the points of induction."""
    },
)
