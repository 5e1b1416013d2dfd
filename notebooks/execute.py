"""Runs the notebooks' code, cell by cell in one namespace, and keeps what it shows. Jupyter is not needed.

    python -m notebooks.execute                   runs all, and writes what they show into their files
    python -m notebooks.execute moe_routing       runs one

A cell shows what it prints, and the value of its last expression. That of the tag `parameters` sets the sizes.
"""

import argparse
import ast
import contextlib
import io
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent


def names() -> list[str]:
    """Of all notebooks here."""
    return sorted(path.stem for path in HERE.glob("*.ipynb"))


def read(name: str) -> dict[str, Any]:
    """A notebook."""
    return json.loads((HERE / f"{name}.ipynb").read_text(encoding="utf-8"))


def write(name: str, notebook: Mapping[str, Any]) -> None:
    """The same text for the same notebook."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    (HERE / f"{name}.ipynb").write_text(text, encoding="utf-8")


def run(notebook: Mapping[str, Any], sizes: Mapping[str, Any] = {}) -> tuple[dict[str, Any], list[list[dict]]]:
    """Runs all cells of code, in this folder.

    Args:
      notebook: as `read` gives it.
      sizes: other values of names that the cell of parameters sets.

    Returns:
      The namespace at the end, and the outputs of each cell of code.
    """
    namespace, outputs = {"__name__": "notebook"}, []
    sys.path.insert(0, str(HERE))
    try:
        with contextlib.chdir(HERE):
            for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
                outputs.append(_run_cell("".join(cell["source"]), namespace, number=len(outputs) + 1))
                if "parameters" in cell["metadata"].get("tags", ()):
                    if unknown := sizes.keys() - namespace.keys():
                        raise ValueError(f"{sorted(unknown)} must be names that the cell of parameters sets")
                    namespace |= sizes
    finally:
        sys.path.remove(str(HERE))
    return namespace, outputs


def _run_cell(source: str, namespace: dict[str, Any], number: int) -> list[dict]:
    tree, printed, value = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    outputs = []
    if printed.getvalue():
        outputs.append(dict(output_type="stream", name="stdout", text=_lines(printed.getvalue())))
    if value is not None:
        data = {kind: _lines(text) for kind, text in _shown(value).items()}
        outputs.append(dict(output_type="execute_result", execution_count=number, data=data, metadata={}))
    return outputs


def _shown(value: Any) -> dict[str, str]:
    """What Jupyter would show of a value, by kind."""
    bundle = getattr(value, "_repr_mimebundle_", None)
    return bundle() if bundle else {"text/plain": repr(value)}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def filled(notebook: dict[str, Any], outputs: Sequence[list[dict]]) -> dict[str, Any]:
    """The notebook with these outputs of its cells of code, numbered from 1."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, shown) in enumerate(zip(code, outputs, strict=True), start=1):
        cell.update(outputs=shown, execution_count=number)
    return notebook


def main() -> None:
    """Runs the notebooks that the command line names, several in a process each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of notebooks; all without any")
    if len(chosen := parser.parse_args().names or names()) > 1:
        for name in chosen:
            subprocess.run([sys.executable, "-m", "notebooks.execute", name], cwd=HERE.parent, check=True)
        return
    start, notebook = time.perf_counter(), read(chosen[0])
    write(chosen[0], filled(notebook, run(notebook)[1]))
    size = (HERE / f"{chosen[0]}.ipynb").stat().st_size
    print(f"{chosen[0]}: {time.perf_counter() - start:.0f} s, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
