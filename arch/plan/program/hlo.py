"""Reads the text of a program that XLA compiled: computations, their instructions, and what calls what.

    %name = f32[2,3]{1,0:T(8,128)S(1)} opcode(%operand, %operand), attribute=value, ...

`jax.jit(f).lower(...).compile().as_text()` gives it, for any kind of device. Of a layout: the axes from the fastest on,
the tile in which TPUs keep the last of them together, T(8,128), and the memory space, S(n): 0 is the device's main
memory, others are close to its processor (of a TPU 1 is VMEM, 2 and 4 are flags and scalars). Grammar: as XLA's parser
accepts it, with XLA's documentation on "Shapes and layout" and "Tiled layout".
"""

import dataclasses
import functools
import math
import re

BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "bf16": 16, "c64": 64, "c128": 128, "f8e4m3b11fnuz": 8}
"""Of the types whose name does not end in their number of bits."""
NOT_ARRAYS = ("token", "opaque")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)(.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_METADATA = re.compile(r"kernel_metadata=\{\n(?:.*\n)*?\},?")  # of a kernel: it breaks its line
_BODY = re.compile(r'"body":"[^"]*",?')


@dataclasses.dataclass(frozen=True)
class Array:
    """A result of an instruction.

    Attributes:
      dtype: as XLA spells it, `bf16`.
      dims: its shape.
      space: the memory it is in, 0 for the main one.
      order: its axes, the fastest first.
      tile: entries that are kept together, of the fastest axis last; () for none.
      whole: whether what is looked up in it counts as the tiles that it lies in.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    whole: bool = False

    @property
    def entries(self) -> int:
        """How many numbers."""
        return math.prod(self.dims)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.entries * _bits(self.dtype) // 8

    @property
    def held(self) -> int:
        """Bytes of the tiles that it lies in."""
        return self.in_tiles(self.dims) * _bits(self.dtype) // 8

    def in_tiles(self, sizes: tuple[int, ...]) -> int:
        """Entries of the tiles that a slice of these sizes lies in."""
        steps = dict(zip(self.order, reversed(self.tile)))
        return math.prod(-(-size // steps.get(axis, 1)) * steps.get(axis, 1) for axis, size in enumerate(sizes))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
      name, opcode: `all-gather.3`, `all-gather`.
      results: the arrays of its result, a tuple's one behind the other.
      operands: names of instructions of the same computation.
      inside: what stands between the brackets: operands, or a parameter's number, a constant's value.
      text: the attributes behind them, without the code of kernels.
      root: whether it gives the computation's result.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    inside: str
    text: str
    root: bool

    def attribute(self, name: str) -> str:
        """What follows `name=`, without braces and quotes; '' where there is no such attribute."""
        found = re.search(rf'[ ,]{name}=(?:\{{([^}}]*)\}}|"([^"]*)"|%?([\w.<>\[\]-]+))', self.text)
        return next((part for part in found.groups() if part is not None), "") if found else ""

    @property
    def path(self) -> str:
        """Of the operation in the model, `jit(step)/layers/0/attention/dot_general`; '' where none is noted."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        some = [self.attribute(name) for name in ("branch_computations", "true_computation", "false_computation")]
        return re.findall(r"[\w.-]+", " ".join(some))

    def dims(self, name: str) -> tuple[int, ...]:
        """Whole numbers of an attribute."""
        return _numbers(self.attribute(name))


class Computation(dict[str, Instruction]):
    """Instructions by name, in the order of the text."""

    @functools.cached_property
    def root(self) -> Instruction:
        """Gives the result."""
        return next(one for one in self.values() if one.root)

    @functools.cached_property
    def parameters(self) -> list[str]:
        """Names, by number."""
        some = [one for one in self.values() if one.opcode == "parameter"]
        return [one.name for one in sorted(some, key=lambda one: int(one.inside))]

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Which instructions read each one, once each."""
        out = {name: [] for name in self}
        for one in self.values():
            for name in dict.fromkeys(one.operands):
                out[name].append(one)
        return out

    def read(self, instruction: Instruction) -> list[tuple[Array, ...]]:
        """The results of each of its operands."""
        return [self[name].results for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations, and the name of that where it starts."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str, *, tiles: bool = False) -> Program:
    """The program of a text.

    Args:
      text: of it.
      tiles: whether what is looked up in an array counts as the tiles that it lies in.

    Raises:
      ValueError: where it has no entry computation.
    """
    computations, entry, current = {}, "", None
    for line in _METADATA.sub("", text).splitlines():
        if start := _COMPUTATION.match(line):
            current = computations.setdefault(start[2], Computation())
            entry = start[2] if start[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            root, name, shapes, opcode, inside, attributes = match.groups()
            operands = () if opcode in ("parameter", "constant") else tuple(re.findall(r"%([\w.-]+)", inside))
            attributes = _BODY.sub("", attributes)
            results = arrays(shapes, tiles)
            current[name] = Instruction(name, opcode, results, operands, inside, attributes, bool(root))
    if not entry:
        raise ValueError("text must hold a computation that begins with ENTRY, as `compiled.as_text()` does")
    return Program(computations, entry)


@functools.lru_cache(maxsize=None)
def arrays(shapes: str, tiles: bool = False) -> tuple[Array, ...]:
    """Those of a shape's text, `(f32[2,3]{1,0}, s32[])`; `tiles` as in `parse`."""
    out = []
    for dtype, dims, layout in _ARRAY.findall(shapes):
        if dtype not in NOT_ARRAYS:
            order, _, rest = layout.partition(":")
            space, tile = re.search(r"S\((\d+)\)", rest), re.search(r"T\(([\d,]+)\)", rest)
            kept = _numbers(tile[1]) if tile else ()
            out.append(Array(dtype, _numbers(dims), int(space[1]) if space else 0, _numbers(order), kept, tiles))
    return tuple(out)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


@functools.cache
def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    if dtype.startswith("f8"):
        return 8
    if found := re.fullmatch(r"[sufbc]+(\d+)", dtype):
        return int(found[1])
    raise ValueError(f"dtype={dtype} must be one whose bits are known")
