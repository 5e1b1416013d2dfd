"""`run.py --mode=report`: the results of a sweep, and the pages made of them (`experiments/claim.py`)."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from arch import config
from arch.train import command_line
from experiments import figure, page, record
from experiments.claim import Claim, Rows

HERE = pathlib.Path(__file__).parent


def names() -> list[str]:
    """Of the folders that hold a claim."""
    return sorted(file.parent.name for file in HERE.glob("*/claim.py"))


def read(folder: pathlib.Path) -> tuple[Claim, dict[str, Any], Rows]:
    """The claim of a folder, its records by size, and the rows of its paper.json.

    Raises:
      ConfigError: the folder holds no claim.
    """
    claim = command_line.namespace(str(folder / "claim.py")).get("CLAIM")
    if claim is None:
        raise config.ConfigError(f"{folder / 'claim.py'} must define CLAIM")
    files = {size: folder / "results" / f"{size}.json" for size in claim.sizes}
    results = {size: json.loads(file.read_text()) for size, file in files.items() if file.exists()}
    return claim, results, json.loads((folder / "paper.json").read_text())["rows"]


def pages(folder: pathlib.Path, claim: Claim, results: Mapping[str, Any], paper: Rows) -> dict[pathlib.Path, str]:
    """What the files of a claim that are made of its results must hold."""
    made = {folder / "README.md": page.claim_page(folder.name, claim, results, paper)}
    for size, found in results.items():
        if panels := claim.figure(found["rows"], paper):
            made[folder / "results" / f"{size}.svg"] = figure.draw(panels)
    return made


def leaderboard() -> str:
    """What `experiments/README.md` must hold."""
    return page.leaderboard({name: read(HERE / name) for name in names()})


def report(given: str, workdir: str) -> str:
    """Writes the results of a sweep, the pages made of them, and the table of all claims.

    Args:
      given: `FILE:SIZE` of the config, beside which there is a claim.
      workdir: of the sweep; '' to write the pages of the results that are kept.

    Returns:
      The verdict, with the name of the page.

    Raises:
      ValueError: there is no claim, no such size, or no finished sweep.
    """
    file, arg = command_line.split(given)
    folder = pathlib.Path(file).resolve().parent
    claim, results, paper = read(folder)
    size = config.parse_arg(arg, size="small").size
    if size not in claim.sizes:
        raise config.ConfigError(f"option size={size!r} must be one of {', '.join(claim.sizes)}")
    if workdir:
        results[size] = record.of(pathlib.Path(workdir), claim.rows)
        record.write(folder / "results" / f"{size}.json", results[size])
        results[size] = json.loads((folder / "results" / f"{size}.json").read_text())
    for path, text in pages(folder, claim, results, paper).items():
        path.write_text(text)
    if folder.parent == HERE:
        (HERE / "README.md").write_text(leaderboard())
    verdict = claim.judged(results[size]["rows"], paper) if size in results else "not run yet"
    return f"{folder / 'README.md'}: {verdict}"
