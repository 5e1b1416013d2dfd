"""Python's standard library as a corpus: its files, and labelled documents that are made of them on the fly.

    classes   a function's source                     the package that it is of
    tags      the tokens of a function                what each is: a keyword, a name, a definition, a call ...
    chat      "What does textwrap.dedent do?"         the first paragraph of its docstring

All three are functions of the files alone, for runs and tests without any other data.
"""

import ast
import io
import keyword
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from typing import Any

from arch.data.labelled import Kind, Labelled, document

NOT_EVERYWHERE = frozenset(
    # Stripped or packaged apart by some distribution (Debian, macOS, slim images), or made by its build.
    "test tests idlelib idle_test tkinter turtle turtledemo lib2to3 distutils ensurepip venv site-packages "
    "dist-packages __pycache__ lib-dynload macholib _distutils_system_mod sitecustomize usercustomize "
    # Came, went or turned into a folder between Python 3.11 and 3.13.
    "_android_support _bootsubprocess _colorize _ios_support _opcode_metadata _pydatetime _pylong _pyrepl aifc "
    "asynchat asyncore cgi cgitb chunk crypt imghdr imp mailcap nntplib pathlib pipes smtpd sndhdr sunau sysconfig "
    "telnetlib uu xdrlib zipfile "
    # Generated tables, not written text.
    "__phello__ encodings pydoc_data".split()
)
"""Folders and modules of the standard library that are not read, so that every machine reads (almost) the same."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGES = frozenset("asyncio email http importlib logging multiprocessing unittest urllib xml".split())
"""The classes: packages of more than 200 functions each."""

LONGEST = 16
"""Characters of a word that a longer string or comment is cut to."""


def is_everywhere(name: str) -> bool:
    """Whether a file or folder of the standard library is there, and much the same, on every machine."""
    parts = name.removesuffix(".py").split("/")
    return NOT_EVERYWHERE.isdisjoint(parts) and not parts[0].startswith(("config-", "_sysconfigdata"))


def labelled_documents(kind: Kind, files: Iterable[Any]) -> Iterator[Labelled]:
    """The labelled documents of a kind.

    Args:
      kind: 'classes', 'tags' or 'chat'.
      files: each with a `name`, a path relative to the standard library, and a `text`.
    """
    make = {"classes": _classes, "tags": _tags, "chat": _chat}[kind]
    for file in files:
        for qualified, node in _functions(ast.parse(file.text), file.name.removesuffix(".py").replace("/", ".")):
            values = make(qualified, node, file.text)
            if values:
                yield document(kind, f"{file.name}#{node.lineno}", values)


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """The functions and methods of a module with their qualified names, those within functions left out."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}.{getattr(node, 'name', '')}"
        if isinstance(node, Function):
            yield name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, name)


def _source(node: Function, text: str) -> str:
    lines = text.splitlines(keepends=True)
    return textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))


def _classes(name: str, node: Function, text: str) -> dict[str, Any]:
    package = name.split(".")[0]
    return {"field": _source(node, text), "label_field": package} if package in PACKAGES else {}


def _tags(name: str, node: Function, text: str) -> dict[str, Any]:
    found = [
        token
        for token in tokenize.generate_tokens(io.StringIO(_source(node, text)).readline)
        if token.string.strip() and token.type != tokenize.INDENT
    ]
    words = ["", *(token.string for token in found), ""]
    tags = [_tag(token, before, after) for token, before, after in zip(found, words, words[2:])]
    return {"field": [token.string[:LONGEST] for token in found], "label_field": tags}


def _tag(token: tokenize.TokenInfo, before: str, after: str) -> str:
    """What a token is, by itself and by its neighbours."""
    if token.type != tokenize.NAME:
        kinds = {tokenize.OP: "operator", tokenize.NUMBER: "number", tokenize.COMMENT: "comment"}
        return kinds.get(token.type, "string")
    if keyword.iskeyword(token.string):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    if after == "(":
        return "call"
    return "attribute" if before == "." else "name"


def _chat(name: str, node: Function, text: str) -> dict[str, Any]:
    paragraph = (ast.get_docstring(node) or "").split("\n\n")[0].strip()
    if not paragraph:
        return {}
    question = {"role": "user", "content": f"What does {name} do?"}
    return {"field": [question, {"role": "assistant", "content": paragraph}]}
