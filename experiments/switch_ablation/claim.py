"""Switch layers: loss, dropped tokens and entropy of loads, by capacity and by the weight of the balance loss."""

import math

from experiments.claim import Claim, Expectation
from experiments.figure import Line, Panel

LAYERS, LAST = 2, 10
"""Mixtures, and logged steps over which loads are averaged."""


def rows(point):
    """The loss, and what the mixtures did in the last logged steps; settings as text, '0' of the dense model."""
    options = point.options
    row = dict(layer=options["layer"], capacity=f"{options.get('capacity_factor', 0):g}")
    row |= dict(weight=f"{options.get('balance_weight', 0):g}", nats=round(point.last["eval/valid/loss"], 4))
    logged = [line for line in point.logged() if "train/loss" in line][-LAST:]
    if row["layer"] == "switch":
        for name in ("dropped_fraction", "load_cv"):
            values = [line[f"moe/layers/{layer}/{name}"] for line in logged for layer in range(LAYERS)]
            row[name] = round(sum(values) / len(values), 4)
    return [row | dict(seed=point.result.config["seed"])]


def table(rows, paper):
    """A line a run; the paper's negative log perplexities of the larger model beside the same capacity."""
    printed = {f"{row['capacity']:g}": row["switch"] for row in paper}
    lines = []
    for row in rows:
        sparse = row["layer"] == "switch"
        lines.append({"layer": row["layer"], "capacity": row["capacity"] if sparse else ""})
        lines[-1] |= {"balance weight": row["weight"] if sparse else ""}
        lines[-1] |= {"- validation nats": f"{-row['nats']:.3f}"}
        if sparse:
            lines[-1] |= {"dropped": f"{row['dropped_fraction']:.1%}", "CV of loads": f"{row['load_cv']:.2f}"}
        known = printed.get(row["capacity"]) if row["weight"] == "0.01" or not sparse else None
        lines[-1] |= {"paper, - nats": f"{known:.3f}" if known else ""}
    return lines


def figure(rows, paper):
    """Of the capacities what is dropped; of the weights the CV of the loads."""
    sparse = [row for row in rows if row["layer"] == "switch"]
    of_one_weight = [row for row in sparse if row["weight"] == "0.01"]
    of_one_capacity = [row for row in sparse if row["capacity"] == "1.25"]
    by_capacity = sorted((float(row["capacity"]), 100 * row["dropped_fraction"]) for row in of_one_weight)
    by_weight = sorted((math.log10(float(row["weight"]) or 1e-6), row["load_cv"]) for row in of_one_capacity)
    return [
        Panel("Dropped tokens, %", "capacity factor", [Line("balance weight 0.01", by_capacity)]),
        Panel("CV of loads", "log10 of the balance weight, -6 for none", [Line("capacity 1.25", by_weight)]),
    ]


def expect(rows, paper):
    """Sparse beats dense, more capacity drops less, the loss balances."""
    (dense,) = (row for row in rows if row["layer"] == "dense")
    sparse = {(row["capacity"], row["weight"]): row for row in rows if row["layer"] == "switch"}
    factors = sorted({factor for factor, weight in sparse if weight == "0.01"}, key=float)
    capacities = [sparse[factor, "0.01"] for factor in factors]
    dropped = [row["dropped_fraction"] for row in capacities]
    tried = sorted({weight for factor, weight in sparse if factor == "1.25"}, key=float)
    weights = [sparse["1.25", weight] for weight in tried]
    nats = {row["capacity"]: row["nats"] for row in capacities}
    shown = lambda losses: ", ".join(f"{loss:.3f} with {setting}" for setting, loss in losses.items())
    return [
        Expectation(
            "Switch is better than dense at equal FLOPs, at each capacity",
            all(value < dense["nats"] for value in nats.values()),
            f"{shown(nats)}, dense {dense['nats']:.3f} nats",
        ),
        Expectation(
            "more capacity drops fewer tokens",
            dropped == sorted(dropped, reverse=True),
            ", ".join(f"{share:.1%}" for share in dropped),
        ),
        Expectation(
            "1.25 and 2.0 are better than 1.0, as in the paper at equal numbers of steps",
            max(nats["1.25"], nats["2"]) < nats["1"],
            ", ".join(f"{value:.3f}" for value in nats.values()),
        ),
        Expectation(
            "a weight of 0.01 halves the CV of loads without the loss",
            sparse["1.25", "0.01"]["load_cv"] < weights[0]["load_cv"] / 2,
            f"{weights[0]['load_cv']:.2f} to {sparse['1.25', '0.01']['load_cv']:.2f}",
        ),
        Expectation(
            "no other weight ends with a lower loss than 0.01, which the paper chose",
            all(sparse["1.25", "0.01"]["nats"] <= row["nats"] for row in weights),
            shown({row["weight"]: row["nats"] for row in weights}),
        ),
    ]


CLAIM = Claim(
    title="Switch layers: capacity and balance",
    claim="""Fedus et al., 2021 (arXiv 2101.03961, table 1 and sec. 2.2): with one expert a token a sparse model is
better than the dense one of equal FLOPs; it does well at low capacities, 1.0 to 1.25, and a balance loss of weight 0.01
evens the loads out without harm.""",
    setup="""2 layers of attention and a perceptron with ReLU (hidden width 128) or 8 of these of which a token has one,
width 32, bytes of the Python standard library's own source, 400 steps of 8 rows of 128, AdamW at a rate of 0.01; 32768
bytes held out, with capacity 2.0. Dropped tokens and the CV of the loads (the standard deviation by the mean) are means
over both layers and the last ten logged steps of training.""",
    sizes={
        "small": """The paper trains T5-Base with 128 experts for 100 000 steps of 2048 rows of 512 tokens of C4. It
draws the weights 0.1 to 0.00001 and chose 0.01; its table has capacities 1.0, 1.25 and 2.0. One seed."""
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="What is dropped by capacity, and how uneven loads are by the weight of the balance loss.",
    expect=expect,
    remarks={
        "small": """One seed of a tiny model in a short run: differences of a few hundredths of a nat may be chance, and
the paper's own 1.25 and 2.0 are 0.001 apart. The larger the capacity, the better the loss here, since less is dropped;
the paper's table favours low capacities by the time that they take, which was not measured. The run shared its machine
with others, so that its time says nothing."""
    },
)
