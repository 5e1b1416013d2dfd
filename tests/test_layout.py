"""The shape of the code, read from its syntax trees: imports go down the ranks, every file says what it is."""

import ast
import collections
import pathlib
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

RANKS = {
    name: rank
    for rank, names in enumerate(
        [
            "typing config hyper tree published _install",
            "ops",
            "kernels sharding",
            "layers positions routers patterns",
            "mixers ffns heads",
            "models data",
            "families",
            "weights decode tasks adapt",
            "train",
            "compress merge continual",
            "plan serving neurosymbolic",
        ]
    )
    for name in names.split()
}
# Within one rank: positions are named in the contract that layers define, routers declare weights; sharding may call
# kernels.
SAME_RANK = {("positions", "layers"), ("layers", "positions"), ("sharding", "kernels"), ("routers", "layers")}
REGISTRIES = ("layers", "positions", "routers", "patterns", "mixers", "ffns", "models", "data")


def source_files(root):
    return sorted((root / "arch").rglob("*.py"))


def imported_modules(path, root):
    """Dotted names imported anywhere in the file, functions included: `from a import b` gives `a.b`."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(path, root):
    """The file's or folder's name right under arch/, which is what has a rank."""
    return path.relative_to(root / "arch").with_suffix("").parts[0]


def upward_imports(root):
    for path in source_files(root):
        mine = room(path, root)
        if mine == "__init__":  # the package's own door may open on anything
            continue
        for module in imported_modules(path, root):
            theirs = module.split(".")[1] if module.startswith("arch.") else mine
            down = RANKS.get(theirs, 99) < RANKS[mine]
            if theirs != mine and not down and (mine, theirs) not in SAME_RANK:
                yield f"{path.relative_to(root)} imports {module}"


def imports_of(library, root, rooms):
    for path in source_files(root):
        if room(path, root) in rooms and any(m.split(".")[0] == library for m in imported_modules(path, root)):
            yield str(path.relative_to(root))


def repeated_stems(root):
    places = collections.defaultdict(list)
    for name in REGISTRIES:
        for path in (root / "arch" / name).glob("*.py"):
            if path.stem != "__init__":
                places[path.stem].append(str(path.relative_to(root)))
    return sorted(sorted(paths) for paths in places.values() if len(paths) > 1)


def without_docstring(root):
    return [str(p.relative_to(root)) for p in source_files(root) if not ast.get_docstring(ast.parse(p.read_text()))]


def test_every_folder_and_file_under_arch_has_a_rank():
    assert {room(path, ROOT) for path in source_files(ROOT)} - {"__init__"} <= RANKS.keys()


def test_imports_go_down_the_ranks():
    assert list(upward_imports(ROOT)) == []


def test_ops_and_kernels_do_not_know_flax():
    assert list(imports_of("flax", ROOT, {"ops", "kernels"})) == []


@pytest.mark.parametrize("library", ["tensorflow", "torch", "chex", "pytest"])
def test_no_file_imports(library):
    assert list(imports_of(library, ROOT, RANKS)) == []


def test_a_name_in_a_config_means_one_file():
    assert repeated_stems(ROOT) == []


def test_every_file_opens_with_a_docstring():
    assert without_docstring(ROOT) == []


@pytest.fixture
def house(tmp_path):
    """A tree that breaks each rule once, to show that the checks above see it."""
    files = {
        "arch/ops/scan.py": "def f():\n    from flax import linen\n",
        "arch/layers/block.py": '"""A block."""\nfrom arch.mixers import attention\nfrom arch.positions import rope\n',
        "arch/layers/stack.py": '"""A stack."""\nfrom ..train import step\nfrom . import block\nimport arch.config\n',
        "arch/mixers/block.py": '"""Another block."""\nfrom arch import layers\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_checks_see_upward_and_relative_imports(house):
    found = ["arch/layers/block.py imports arch.mixers.attention", "arch/layers/stack.py imports arch.train.step"]
    assert list(upward_imports(house)) == found


def test_the_checks_see_an_import_inside_a_function(house):
    assert list(imports_of("flax", house, {"ops", "kernels"})) == ["arch/ops/scan.py"]


def test_the_checks_see_a_repeated_stem(house):
    assert repeated_stems(house) == [["arch/layers/block.py", "arch/mixers/block.py"]]


def test_the_checks_see_a_missing_docstring(house):
    assert without_docstring(house) == ["arch/ops/scan.py"]


def test_no_f_string_holds_its_own_quotes():
    """Python reads that from 3.12 on; 3.11 is supported."""
    wrong, folders = [], ("arch", "benchmarks", "configs", "experiments", "notebooks", "tests")
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        quotes, lines = [], iter(file.read_text(encoding="utf-8").splitlines(keepends=True))
        for token in tokenize.generate_tokens(lambda lines=lines: next(lines, "")):
            kind = tokenize.tok_name[token.type]
            if kind == "FSTRING_END":
                quotes.pop()
            elif kind in ("FSTRING_START", "STRING"):
                if quotes and quotes[-1] == token.string[-1]:
                    wrong.append(f"{file}:{token.start[0]}")
                if kind == "FSTRING_START":
                    quotes.append(token.string[-1])
    assert not wrong
