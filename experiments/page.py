"""Pages made of results: a claim's README, and the table of all claims."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.claim import SIZES, Claim, Rows, Table

COMMAND = "python run.py --config=experiments/{name}/config.py:{size} --workdir=runs/{name}/{size}"
NOTICE = "<!-- Written by run.py --mode=report from results and claim.py: not to be edited. -->"


def table(lines: Table) -> str:
    """A Markdown table; a line without a column has a blank there."""
    head = list(dict.fromkeys(name for line in lines for name in line))
    row = lambda cells: f"| {' | '.join(cells)} |"
    cells = (row(line.get(name, "") for name in head) for line in lines)
    return "\n".join([row(head), f"|{'---|' * len(head)}", *cells])


def claim_page(name: str, claim: Claim, results: Mapping[str, Mapping[str, Any]], paper: Rows) -> str:
    """The README of a claim.

    Args:
      name: of its folder.
      claim: itself.
      results: records (`experiments/record.py`) by size, of those that have run.
      paper: the rows of paper.json.
    """
    parts = [NOTICE, f"# {claim.title}", f"**Claim.** {claim.claim}", f"**Setup.** {claim.setup}"]
    for size, differs in claim.sizes.items():
        parts += [f"## Size `{size}`", differs, commands(name, size)]
        parts += _measured(claim, size, results[size], paper) if size in results else ["Not run yet."]
    return "\n\n".join(parts) + "\n"


def commands(name: str, size: str) -> str:
    """The two lines that run a size and write its page."""
    command = COMMAND.format(name=name, size=size)
    return f"```\n{command} --mode=sweep\n{command} --mode=report\n```"


def _measured(claim: Claim, size: str, record: Mapping[str, Any], paper: Rows) -> Iterable[str]:
    rows = record["rows"]
    yield table(claim.table(rows, paper))
    if claim.figure(rows, paper):
        yield f"![figure](results/{size}.svg)"
        yield claim.caption
    yield f"**Verdict: {claim.judged(rows, paper)}.**"
    words = {True: "Holds", False: "**Does not hold**"}
    yield "\n".join(f"- {words[each.holds]}: {each.says} ({each.found})." for each in claim.expect(rows, paper))
    if size in claim.remarks:
        yield claim.remarks[size]
    yield _origin(size, record)


def _origin(size: str, record: Mapping[str, Any]) -> str:
    commits = ", ".join(commit[:12] for commit in record["commits"])
    count = len(record["seconds"])
    took = f"{duration(record)} in all for {count} point{'s' * (count > 1)}"
    versions = f"JAX {record['versions']['jax']}, Python {record['versions']['python']}"
    return f"Measured {record['date']} on {record['device']}, {versions}, at {commits}: {took} (`results/{size}.json`)."


def duration(record: Mapping[str, Any]) -> str:
    """What all points took together."""
    seconds = sum(record["seconds"])
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def leaderboard(claims: Mapping[str, tuple[Claim, Mapping[str, Mapping[str, Any]], Rows]]) -> str:
    """The table of all claims.

    Args:
      claims: by name of the folder, a claim, its records by size, and the rows of paper.json.
    """
    lines = []
    for name, (claim, results, paper) in claims.items():
        for size in claim.sizes:
            line = {"claim": f"[{claim.title}]({name}/README.md)", "size": f"`{name}/config.py:{size}`"}
            if record := results.get(size):
                verdict = claim.judged(record["rows"], paper)
                line |= {"verdict": verdict, "time": duration(record), "device": record["device"]}
                line |= {"date": record["date"]}
            lines.append(line | ({} if record else {"verdict": "not run yet"}))
    sizes = "\n".join(f"- `{size}`: {what}." for size, what in SIZES.items())
    parts = [NOTICE, "# Claims of papers, run here", INTRODUCTION, sizes, table(lines)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """Each folder holds a claim, its runs (`config.py`) and, once they have run, its page: our numbers
beside those that the paper prints, what was expected, and whether that holds. A line of the table is run, and its page
written anew, by

```
python run.py --config=experiments/CLAIM/config.py:SIZE --workdir=runs/CLAIM/SIZE --mode=sweep
python run.py --config=experiments/CLAIM/config.py:SIZE --workdir=runs/CLAIM/SIZE --mode=report
```

The second without `--workdir` writes the page of the results that are kept here. Configs and seeds are committed before
the runs that they report; a machine that others use too makes times long. Sizes:"""
