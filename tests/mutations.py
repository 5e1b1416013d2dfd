"""Mutations of a config's leaves, one of which each makes a command line: `--config.batch_size=-3`.

What must become of one follows from its kind and the leaf's name alone, not from the rules that the config classes
have: it must be refused whatever they say, or it may be valid.
"""

import dataclasses
import random
import re

from arch import config


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One override.

    Attributes:
      kind: how it came about.
      path: of the leaf or node.
      text: the value on the command line.
      refused: whether it must be refused, and is not merely allowed to be.
    """

    kind: str
    path: str
    text: str
    refused: bool

    @property
    def flag(self):
        return f"--config.{self.path}={self.text}"


SIZE = re.compile(r"(_dim|_size|_len|_heads|_experts|_steps_per_\w+|num_\w+|batches|repeats|capacity|width|kernel)$")
"""Names of leaves of which there cannot be a negative number."""

MAY_BE_ZERO = re.compile(
    r"_(steps|tokens|examples|epochs|percent)$|eval_batches|num_kv_heads|num_buckets|head_dim|vocab_size$|max_\w+|chunk"
)
"""Names of sizes of which 0 may mean 'off' or 'as another says'; beside these a pipeline's `micro_batches`."""

MAY_BE_NEGATIVE = re.compile(r"^mesh\.|\.(index|layer|stop|start)$")
"""Paths of numbers of which a negative one may mean something: -1 of a mesh is whatever is left."""


def leaves(tree, path=""):
    """(path, value) of each leaf of a frozen config, and of each node that is a tuple of configs."""
    if isinstance(tree, config.Config):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name), f"{path}.{field.name}" if path else field.name)
        return
    yield path, tree
    if isinstance(tree, tuple) and tree and isinstance(tree[0], config.Config):
        for i, entry in enumerate(tree):
            yield from leaves(entry, f"{path}[{i}]")


def nodes(tree, path=""):
    """The paths of the configs inside a frozen config."""
    if isinstance(tree, config.Config):
        if path:
            yield path
        for field in dataclasses.fields(tree):
            yield from nodes(getattr(tree, field.name), f"{path}.{field.name}" if path else field.name)
    elif isinstance(tree, tuple):
        for i, entry in enumerate(tree):
            yield from nodes(entry, f"{path}[{i}]")


def of(cfg, seed):
    """All mutations of a config; the seed chooses letters and numbers."""
    draw = random.Random(seed)
    for path, value in leaves(cfg):
        name = path.rpartition(".")[2]
        yield Mutation("misspelt", path.removesuffix(name) + misspelt(name, draw), "1", True)
        yield from of_value(path, name, value, draw)
    for path in nodes(cfg):
        yield Mutation("no block", path, str(draw.randint(2, 9)), True)
        yield Mutation("a key in it", f"{path}.{misspelt('dimension', draw)}", "1", True)
        if "[" in path.rpartition(".")[2] or path in ("model", "task"):
            name = draw.choice(["mamba9", "nonsense", "__init__", "../x", ""])
            yield Mutation("another block", f"{path}.name", name, True)


def of_value(path, name, value, draw):
    """The mutations of a leaf that depend on its value's type."""
    make = lambda kind, text, refused: Mutation(kind, path, str(text), refused)
    if isinstance(value, bool):
        yield make("type", draw.choice(["7", "perhaps", "0.5"]), True)
    elif isinstance(value, (int, float)):
        yield make("type", draw.choice(["abc", "", "1,2", "(1,)", "None", "[3]", "0x", "--3"]), True)
        yield make("nan", "nan", True)
        yield make("inf", draw.choice(["inf", "-inf"]), True)
        yield make("negative", -draw.randint(2, 99), not MAY_BE_NEGATIVE.search(path))
        off = MAY_BE_ZERO.search(name) or path.endswith("pipeline.micro_batches")
        yield make("zero", 0, bool(SIZE.search(name) and not off))
        for huge in ("1" + "0" * draw.randint(7, 12), str(2**draw.choice([31, 32, 62, 63, 64])), "9" * 400):
            yield make("huge", huge, False)
        yield make("odd", draw.choice([3, 5, 7, 11, 13]), False)
        if isinstance(value, int):
            yield make("fraction", value + 0.5, True)
        else:
            yield make("huge", "1e308", False)
            yield make("tiny", "5e-324", False)
    elif isinstance(value, str):
        yield make("text", draw.choice(["nonsense", "", "/absent/x", "a\nb", "\u2603" * 3, "%s{0}\\"]), False)
    elif isinstance(value, tuple):
        yield make("empty", "()", False)
        text = draw.choice(["3", "abc", "(None,)", "({},)", "((),)", "([],)"])
        may_be = text == "abc" or (text == "({},)" and path == "data.mixture")  # of one text; of one usual source
        yield make("type", text, not may_be)
        yield make("block", "({'name': 'nonsense', 'sublayers': 3},)", True)


def misspelt(name, draw):
    """A name with a letter left out, doubled, swapped or changed."""
    i = draw.randrange(len(name) - 1)
    swapped = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    changes = [name[:i] + name[i + 1 :], name[: i + 1] + name[i:], swapped, name[:i] + "q" + name[i + 1 :]]
    return draw.choice([new for new in changes if new != name and new])
