"""Installation: another `arch` is reported, the locks fit setup.cfg, and make finds a Python that runs."""

import ast
import configparser
import itertools
import os
import pathlib
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import arch
from arch import _install

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("py3*.txt"))


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def direct_requirements():
    cfg = setup_cfg()
    lines = cfg["options"]["install_requires"] + cfg["options.extras_require"]["test"]
    return [Requirement(line) for line in lines.splitlines() if line]


def install(folder, name, **files):
    """A fake installed distribution: `arch/__init__.py` and a metadata folder with the given files."""
    (folder / "arch").mkdir(exist_ok=True)
    (folder / "arch" / "__init__.py").touch()
    metadata = folder / f"{name}.dist-info"
    metadata.mkdir()
    for stem, text in files.items():
        (metadata / {"top_level": "top_level.txt"}.get(stem, stem)).write_text(text)


@pytest.mark.parametrize(
    "name, files",
    [
        ("arch-8.0.0", {}),
        ("garch_models-1.0", {"top_level": "garch\narch\n"}),
        ("garch_models-1.0", {"RECORD": "garch/__init__.py,sha256=0,0\narch/__init__.py,sha256=0,0\n"}),
    ],
)
def test_another_distribution_of_arch_is_named(tmp_path, name, files):
    install(tmp_path, name, **files)
    theirs = name.split("-")[0].replace("_", "-")
    with pytest.raises(ImportError, match=f"'{theirs}' in {re.escape(str(tmp_path))} .* pip uninstall {theirs}'"):
        _install.refuse_clash([str(tmp_path)])


@pytest.mark.parametrize(
    "name, files",
    [
        ("arch_jax-0.1.0", {"top_level": "arch\n"}),
        ("archery-1.0", {"top_level": "archery\n"}),
        ("monarch-1.0", {"RECORD": "monarch/arch/__init__.py,sha256=0,0\n"}),
    ],
)
def test_our_own_and_similar_names_are_no_clash(tmp_path, name, files):
    install(tmp_path, name, **files)
    _install.refuse_clash([str(tmp_path), str(tmp_path / "missing"), ""])


def test_import_arch_fails_with_the_clash_in_its_last_line(tmp_path):
    install(tmp_path, "arch-8.0.0")
    result = run_python("import arch", PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ImportError: the distribution 'arch' in ")


def test_the_clash_check_takes_under_20_ms_among_100_distributions(tmp_path):
    for index in range(100):
        install(tmp_path, f"package{index}-1.0", RECORD="package/module.py,sha256=0,0\n" * 300)
    code = (
        "import time, timeit; from arch._install import refuse_clash; "
        f"print(min(timeit.repeat(lambda: refuse_clash([{str(tmp_path)!r}]), number=1, timer=time.process_time)))"
    )
    result = run_python(code, PYTHONPATH=str(ROOT))  # a process of its own: without the checks of annotations
    assert float(result.stdout) < 0.020, result.stderr


def test_import_arch_leaves_jax_alone():
    result = run_python("import arch, sys; print('jax' in sys.modules, 'flax' in sys.modules)", PYTHONPATH=str(ROOT))
    assert result.stdout == "False False\n", result.stderr


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, cwd="/"
    )


def test_the_checkout_is_what_is_tested():
    assert pathlib.Path(arch.__file__).parent == ROOT / "arch"


def test_annotated_shapes_are_checked():
    assert type(arch.__loader__).__module__.startswith("jaxtyping")


def test_every_import_is_declared():
    distributions = {"absl": "absl-py", "orbax": "orbax-checkpoint", "jla": "jax-linear-attention", "PIL": "pillow"}
    extras = "\n".join(setup_cfg()["options.extras_require"].values())
    optional = [Requirement(line) for line in extras.splitlines() if line]
    declared = {canonicalize_name(requirement.name) for requirement in [*direct_requirements(), *optional]}
    imported = set()
    for path in itertools.chain((ROOT / "arch").rglob("*.py"), ROOT.glob("run.py"), (ROOT / "configs").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    imported -= {"arch", "configs", "experiments", *sys.stdlib_module_names}
    assert {canonicalize_name(distributions.get(name, name)) for name in imported} <= declared


def locked(lock):
    """Name -> versions pinned (more than one where environments differ)."""
    versions = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", lock.read_text(), flags=re.MULTILINE):
        versions.setdefault(name, []).append(version)
    return versions


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_pins_every_direct_requirement_within_setup_cfg(lock):
    pins = locked(lock)
    bad = [str(r) for r in direct_requirements() if not pins.get(canonicalize_name(r.name))]
    bad += [
        f"{r} but {v} is pinned"
        for r in direct_requirements()
        for v in pins.get(canonicalize_name(r.name), [])
        if v not in r.specifier
    ]
    assert bad == [], "run `make lock`"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_hashes_every_package_and_names_no_host(lock):
    text = lock.read_text()
    entries = re.findall(r"^\S+==(?:[^\n]|\n(?=    --hash))*", text, flags=re.MULTILINE)
    assert len(entries) > 50
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text and "index-url" not in text


def test_a_lock_stands_for_every_python_that_setup_cfg_names():
    named = re.findall(r"Python :: 3\.(\d+)", setup_cfg()["metadata"]["classifiers"])
    assert [path.stem for path in LOCKS] == [f"py3{minor}" for minor in named]


def test_the_version_is_the_same_wherever_it_is_written():
    version = setup_cfg()["metadata"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1] == version


@pytest.fixture
def machine(tmp_path):
    """Two functions: one adds a fake Python, which prints its version or fails; one searches among those added."""

    def add(where, version):
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 127\n")
        path.chmod(0o755)

    def find(**environment):
        env = {"PATH": f"{tmp_path}/bin:{tools(tmp_path)}", "PYENV_ROOT": f"{tmp_path}/pyenv", **environment}
        command = [str(ROOT / "requirements" / "find_python.sh"), "3.12", "3.13", "python3"]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    return add, find


def tools(folder):
    """A folder with the few commands that the script calls, and no Python of the machine's own."""
    path = folder / "tools"
    path.mkdir(exist_ok=True)
    for name in ("sh", "dirname", "ls", "tr"):
        if not (path / name).exists():
            (path / name).symlink_to(next(f"{d}/{name}" for d in ("/bin", "/usr/bin") if os.path.exists(f"{d}/{name}")))
    return path


ORDER = [
    ("bin/python3.12", "3.12"),
    ("bin/python3.13", "3.13"),
    ("pyenv/versions/3.12.7/bin/python", "3.12"),
    ("pyenv/versions/3.13.1/bin/python", "3.13"),
    ("bin/python3", "3.11"),
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_best_python_that_runs_is_found(machine, tmp_path, first):
    add, find = machine
    for where, _ in ORDER[:first]:
        add(where, None)  # such as a pyenv shim of a version that is not active
    for where, version in ORDER[first:]:
        add(where, version)
    assert find().stdout == f"{tmp_path}/{ORDER[first][0]}\n"


def test_a_python_given_by_hand_is_the_only_candidate(machine, tmp_path):
    add, find = machine
    add("bin/python3.12", "3.12")
    add("own/python", "3.11")
    assert find(PYTHON=f"{tmp_path}/own/python").stdout == f"{tmp_path}/own/python\n"
    result = find(PYTHON=f"{tmp_path}/own/python3")
    assert result.returncode == 1 and "own/python3 (does not run)" in result.stderr


def test_without_a_fit_python_the_ones_found_are_named(machine):
    add, find = machine
    add("bin/python3.12", None)
    add("bin/python3", "3.10")
    result = find()
    assert (result.returncode, result.stdout) == (1, "")
    assert "python3.12 (does not run)" in result.stderr and "python3 (3.10)" in result.stderr
