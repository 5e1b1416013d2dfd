"""What the README says is done as it says."""

import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.layers import block, stack, weight
from arch.layers.contract import Context, positions_of
from arch.layers.flops import Row
from arch.models import decoder

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def average():
    """The file that the README adds, as the module that it would be."""
    (code,) = re.findall(r'```python\n("""Exponential.*?)```', README, flags=re.DOTALL)
    module = types.ModuleType("arch.mixers.average")
    sys.modules[module.__name__] = module
    exec(compile(code, "README.md", "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def test_the_readmes_mixer_decodes_what_the_full_pass_says(average):
    cfg = decoder.Config(
        vocab_size=11,
        embed_dim=6,
        layers=stack.Config(pattern=(block.Config(sublayers=(average.EXAMPLES[1],)),), repeats=2),
    )
    model = cfg.make()
    tokens = jax.random.randint(jax.random.key(1), (2, 5), 0, 11)
    params = weight.unbox(model.init(jax.random.key(0), tokens)["params"])
    full = model.apply({"params": params}, tokens).x
    cache, steps = cfg.init_cache(2, 5), []
    for i in range(5):
        context = Context(positions=positions_of(tokens[:, :1], i))
        out = model.apply({"params": tree.unstack(params)}, tokens[:, i : i + 1], context, cache)
        cache = out.cache
        steps.append(out.x)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), full, atol=1e-6)


def test_the_readmes_mixer_is_the_average_it_says(average):
    x = jnp.arange(6.0).reshape(1, 3, 2)
    a = jnp.array([0.5, 0.25])
    out, last = average.average(x, a, None, jnp.ones((1, 3), bool), None)
    h1 = (1 - a) * x[0, 0]
    h2 = a * h1 + (1 - a) * x[0, 1]
    h3 = a * h2 + (1 - a) * x[0, 2]
    np.testing.assert_allclose(out[0], jnp.stack([h1, h2, h3]), rtol=1e-6)
    np.testing.assert_allclose(last[0], h3, rtol=1e-6)


def test_the_readmes_mixer_says_its_flops(average):
    assert average.Config().flops(Row(7, 5)).required == 2 * 2 * 7 * 5


def test_every_file_and_folder_that_the_readme_names_exists():
    pages = README + "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    names = re.findall(r"`((?:arch|configs|tests|benchmarks|requirements|docs|experiments)/[\w/.-]*)`", pages)
    names += re.findall(r"\]\(([\w/.]+)\)", README)
    assert len(names) > 8
    missing = [name for name in names if not (ROOT / name).exists() and name != "arch/mixers/average.py"]
    assert not missing


def test_the_contents_are_the_headings():
    anchor = lambda heading: re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
    named = dict(re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)", README))
    headings = re.findall(r"^## (.*)$", README, re.M)
    assert named == {heading: anchor(heading) for heading in headings if heading != "Contents"}


def test_every_sublayer_is_in_the_readmes_table():
    files = [f for folder in ("mixers", "ffns") for f in (ROOT / "arch" / folder).glob("[a-z]*.py")]
    assert not [file.name for file in files if file.name not in README]


def test_every_family_is_in_the_readmes_table():
    rows = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    files = [file.stem for file in (ROOT / "arch" / "families").glob("[a-z]*.py")]
    assert len(files) > 8
    assert not [stem for stem in files if f"`{stem}`" not in rows]
