"""Thousands of mutated configs: each is refused in one line that names field, value and rule, or can be prepared.

The mutations (tests/mutations.py) are the same in every run. A failure prints the command lines that show it.
"""

import contextlib
import random
import re
import resource
import sys
import traceback
import warnings

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from arch import config
from arch.train import capacity, command_line, experiment, setup
from tests import mutations
from tests.commands import ROOT, Server

# ml_collections loads a config file as Python 3.12 would rather not have it.
pytestmark = pytest.mark.filterwarnings("ignore")

FILES = {file.stem: file for file in [ROOT / "tests" / "train" / "tiny.py", *sorted((ROOT / "configs").glob("*.py"))]}
SMALL = {
    "pretrained": ["--config.data.tokenizer.kind=byte", "--config.sample_prompt="],
    "classify": ["--config.data.max_bytes=1000000"],
    "tag": ["--config.data.max_bytes=200000"],
    "sft": ["--config.data.max_bytes=500000"],
}
"""What makes a config's corpus small, or the config whole."""
RULE = re.compile(r"\bmust\b|\bis no\b|is missing|did you mean|does not exist|only one may|there is no")
CHECKED, PREPARED = 250, 30
"""Of each config: mutations that are read, and mutated configs that are prepared."""
MEMORY = 2**34


def line(name, *flags_):
    return " ".join(["python run.py", f"--config={FILES[name]}", *map(repr, flags_), "--workdir=..."])


def frozen(name, *flags_):
    """The config of a command line, as run.py makes it. Raises ConfigError."""
    argv = ["run.py", f"--config={FILES[name]}", *flags_]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    command_line.parse(values, argv)
    return experiment.from_dict(holder.value)


def written(text):
    """How a message may write a value."""
    forms = {text, repr(text), " ".join(text.split())}
    for number in (float, int):
        with contextlib.suppress(ValueError):
            forms.add(repr(number(text)))
    return forms


def wrong_message(mutation, error):
    """What a refusal lacks, '' for nothing."""
    message = command_line.one_line(error)
    field = re.findall(r"\w+", mutation.path)[-1]
    lacks = [] if field in message else [f"the field {field!r}"]
    named = mutation.kind in ("misspelt", "a key in it", "block", "another block")  # the path is what is wrong
    entry = mutation.text.startswith("(")  # the message names the entry that is wrong
    if not (named or entry) and not any(form in message for form in written(mutation.text)):
        lacks.append(f"the value {mutation.text!r}")
    if not RULE.search(message):
        lacks.append("a rule")
    return f"lacks {' and '.join(lacks)}: {message}" if lacks else ""


def outcome(mutation, make):
    """'' if a mutated config is refused as it should be, or made; else what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make()
    except (ValueError, OSError) as error:
        return wrong_message(mutation, error)
    except BaseException as error:
        return "".join(traceback.format_exception(error)[-8:])
    return "is accepted" if mutation.refused else ""


def check_all(name, of, make, base=()):
    """Fails with the command line of each mutation that ends in anything but one good line, or a config."""
    wrong = {mutation: outcome(mutation, lambda: make(mutation)) for mutation in of}
    bad = [f"{line(name, *base, mutation.flag)}\n    {text}" for mutation, text in wrong.items() if text]
    assert not bad, f"{len(bad)} of {len(wrong)}:\n" + "\n".join(bad)


def mutated(name, *base):
    """All mutations of a config, in an order without order."""
    every = list(dict.fromkeys(mutations.of(frozen(name, *base), name)))
    random.Random(name).shuffle(every)
    return every


def test_a_sample_of_mutations_is_refused_with_field_value_and_rule():
    check_all("tiny", mutated("tiny")[:30], lambda mutation: frozen("tiny", mutation.flag))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_mutation_is_refused_with_field_value_and_rule_or_is_a_config(name):
    chosen = mutated(name)[:CHECKED]
    assert len(chosen) == CHECKED
    check_all(name, chosen, lambda mutation: frozen(name, mutation.flag))


@pytest.fixture
def limited():
    """No more memory than a machine has: what takes all of it fails here, and ends no other process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_mutation_that_is_a_config_is_prepared_or_refused_before_anything_compiles(name, tmp_path, limited):
    base = SMALL.get(name, ["--config.data.max_bytes=200000"])
    sys.argv = ["run.py"]
    setup.prepare(frozen(name, *base), tmp_path / "run")
    chosen = {}
    for mutation in mutated(name, *base):
        with contextlib.suppress(config.ConfigError):
            if len(chosen) < PREPARED and not mutation.refused:
                chosen[mutation] = frozen(name, *base, mutation.flag)

    def prepare(mutation):  # one that leaves the data alone finds it tokenised
        folder = tmp_path / (mutation.path if mutation.path.startswith("data.") else "run")
        ready = setup.prepare(chosen[mutation], folder)
        capacity.state_must_fit(ready.cfg.model, ready.plan, ready.mesh)

    check_all(name, chosen, prepare, base)


@pytest.mark.slow
def test_run_py_refuses_mutations_in_one_line_and_trains_with_what_it_accepts(tmp_path):
    base = ["--config.data.max_bytes=20000", "--config.total_steps=1", "--jax_disable_most_optimizations=True"]
    base += [f"--config={FILES['tiny']}", f"--config.batch_size={jax.device_count()}"]
    ended = {}
    with Server() as command:
        for i, mutation in enumerate(mutated("tiny")[:50]):
            done = command(*base, f"--workdir={tmp_path / str(i)}", mutation.flag)
            one_line = done.status == 2 and re.fullmatch(r"error: [^\n]+\n", done.error) and not done.out
            if not (one_line or done.status == 0 and not mutation.refused):
                ended[" ".join([*base, mutation.flag])] = done
    assert not ended
