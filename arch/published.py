"""How published checkpoints say what ours say: tensors by another name and layout, a config in another vocabulary.

    Rule("layers/0/attention/query", "model.layers.0.self_attn.q_proj.weight", "(n h) d -> d n h", n=32)

A rule reads both ways, so that one list imports and exports. A family (`arch/families/*.py`) has

    MODEL_TYPES                    the `model_type`s of config.json that it reads
    read(attributes) -> Config     our model's config, from theirs; raises ValueError on what it cannot express
    write(config) -> dict          their config.json, from ours; raises ValueError on what it cannot express
    rules(config) -> list[Rule]    one for each tensor they publish
    ignored(config) -> tuple[str]  regular expressions of tensors that hold nothing: constant masks, unused heads
    duplicates(config) -> dict     tensors that files may hold a second time -> the rules' tensors that they must equal:
                                   a tied table's unembedding; absent for none
    zeros(config) -> tuple[str]    tensors that files may hold, which must be 0 (a bias that we lack); absent for none
    PREFIX                         start of their tensors' names that is absent where the model without a head was saved
    OLDER                          regular expression -> replacement, for names that older files have; absent for none
    SPECIALISES                    the family that, where it can, writes a model in place of this one; absent for none
    PRESETS                        our configs of the published sizes by name
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np


class Rule:
    """The correspondence between leaves of ours and tensors of theirs.

    One of theirs may be several of ours: `cuts` cuts its first axis into pieces of these lengths (`first` brings that
    axis to the front) and the pattern rearranges each; without cuts they are the entries of the rearranged tensor's
    first axis. Several of theirs are one of ours: the pattern's first axis counts them. Ours may be `shift` more than
    theirs: Gemma's norms hold what their scales have above 1.

    Attributes:
      ours: canonical paths (`layers/3/attention/query`).
      theirs: tensor names.
      pattern: an einops pattern from their layout to ours; '' for the same layout.
      cuts: lengths of the pieces of their first axis, one for each of ours; () when it is not cut.
      first: an einops pattern from their layout to the one that is cut; '' for the same layout.
      shift: what ours have above theirs, added in float32 or wider.
      sizes: axis lengths that the pattern needs to split an axis of theirs.

    Raises:
      ValueError: cuts do not count ours; several of theirs with cuts, with several of ours, or without their axis.
    """

    def __init__(
        self,
        ours: str | Sequence[str],
        theirs: str | Sequence[str],
        pattern: str = "",
        *,
        cuts: Sequence[int] = (),
        first: str = "",
        shift: float = 0.0,
        **sizes: int,
    ):
        self.ours = (ours,) if isinstance(ours, str) else tuple(ours)
        self.theirs = (theirs,) if isinstance(theirs, str) else tuple(theirs)
        self.pattern, self.cuts, self.first, self.shift, self.sizes = pattern, tuple(cuts), first, shift, sizes
        if (self.cuts or first) and len(self.cuts) != len(self.ours):
            raise ValueError(f"cuts={self.cuts} must be as many as ours={self.ours}")
        if len(self.theirs) > 1 and (self.cuts or len(self.ours) > 1):
            raise ValueError(f"theirs={self.theirs} must be one, or make just one of ours={self.ours}, without cuts")
        self._axis = self._axis_of_several() if len(self.theirs) > 1 else 0

    def place(self, number: int, tensor: np.ndarray) -> list[tuple[str, tuple, np.ndarray]]:
        """Where one of `theirs` goes: (path, index, value) for `ours[path][index] = value`. Views where numpy can.

        Args:
          number: which of `theirs`.
          tensor: its value.
        """
        tensor = _shifted(tensor, self.shift)
        if len(self.theirs) > 1:
            value = self._arrange(tensor[None])
            before = (slice(None),) * self._axis
            return [(self.ours[0], (*before, number), value[(*before, 0)])]
        if self.cuts:
            tensor = self._arrange(tensor, self.first)
            if sum(self.cuts) != tensor.shape[0]:
                raise ValueError(f"{self.theirs[0]} has {tensor.shape[0]} rows, not {' + '.join(map(str, self.cuts))}")
            ends = np.cumsum(self.cuts)
            values = [self._arrange(tensor[end - cut : end]) for end, cut in zip(ends, self.cuts)]
        else:
            value = self._arrange(tensor)
            values = [value] if len(self.ours) == 1 else list(value)
        return [(path, (), value) for path, value in zip(self.ours, values, strict=True)]

    def load(self, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The values of `ours`, from those of `theirs`."""
        placed = [self.place(number, tensor) for number, tensor in enumerate(tensors)]
        if len(self.theirs) == 1:
            return [value for _, _, value in placed[0]]
        return [np.stack([value for [(_, _, value)] in placed], axis=self._axis)]

    def save(self, leaves: Sequence[Any]) -> list[Any]:
        """The values of `theirs`, from those of `ours`: the inverse of `load`."""
        if self.cuts:
            x = self._arrange_back(_join([self._arrange_back(leaf) for leaf in leaves], "concatenate"), self.first)
        else:
            x = self._arrange_back(_join(leaves, "stack"))
        x = _shifted(x, -self.shift)
        return [x] if len(self.theirs) == 1 else list(x)

    def shapes(self, leaves: Sequence[Any]) -> list[tuple[int, ...]]:
        """The shapes of `theirs`, from `ours` as arrays or `jax.ShapeDtypeStruct`s."""
        abstract = [jax.ShapeDtypeStruct(leaf.shape, np.float32) for leaf in leaves]
        return [x.shape for x in jax.eval_shape(lambda leaves: self.save(leaves), abstract)]

    def _axis_of_several(self) -> int:
        """The axis of ours that counts theirs."""
        if not self.pattern:
            return 0
        left, right = (re.findall(r"\([^)]*\)|\S+", side) for side in self.pattern.split("->"))
        if left[0] not in right or left[0].startswith("("):
            raise ValueError(f"pattern={self.pattern!r} must keep its first axis: it counts the several of theirs")
        return right.index(left[0])

    def _arrange(self, x, pattern: str | None = None):
        pattern = self.pattern if pattern is None else pattern
        return einops.rearrange(x, pattern, **self.sizes) if pattern else x

    def _arrange_back(self, x, pattern: str | None = None):
        left, arrow, right = (self.pattern if pattern is None else pattern).partition("->")
        return einops.rearrange(x, f"{right} {arrow} {left}", **self.sizes) if arrow else x

    def __repr__(self):
        return f"Rule({', '.join(self.ours)} <- {', '.join(self.theirs)}: {self.pattern or 'as it is'})"


class Attributes:
    """A published config, read so that nothing in it is overlooked: what is neither read nor inert raises.

    Args:
      values: the config's own attributes, as in config.json.
      source: where they come from, for messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str = "config.json"):
        self._values, self._source, self._read = dict(values), source, set()
        self._nested: dict[str, Attributes] = {}

    def get(self, name: str, default: Any = ..., *, null: Any = ...) -> Any:
        """The value of an attribute.

        Args:
          name: of the attribute.
          default: the value when it is absent.
          null: the value when it is null; by default `default`.

        Raises:
          ValueError: there is no such default.
        """
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            value = null if name in self._values and null is not ... else default
        if value is ...:
            raise ValueError(f"{self._source}: {name} is missing")
        return value

    def nested(self, name: str) -> "Attributes":
        """The attributes of an attribute that is itself an object (`rope_parameters`), held to the same by `finish`.

        Returns:
          The same at every call; without any attributes when it is absent or null.

        Raises:
          ValueError: it is no object.
        """
        if name not in self._nested:
            values = self.get(name, {})
            if not isinstance(values, Mapping):
                raise ValueError(f"{self._source}: {name}={values!r} must be an object")
            self._nested[name] = Attributes(values, f"{self._source}: {name}")
        return self._nested[name]

    def expect(self, name: str, *allowed: Any) -> None:
        """Holds that an attribute is absent or has one of these values: the others are not expressed here.

        Raises:
          ValueError: it has another value.
        """
        self._read.add(name)
        if name in self._values and self._values[name] not in allowed:
            shown = " or ".join(map(repr, allowed))
            raise ValueError(f"{self._source}: {name}={self._values[name]!r} must be {shown}")

    def ignore(self, *names: str) -> None:
        """Marks attributes as of no consequence for the values that the model computes."""
        self._read.update(names)

    def finish(self) -> None:
        """Holds that every attribute, nested ones too, was read, ignored, is null or inert.

        Raises:
          ValueError: some were not; they are named with their values.
        """
        inert = re.compile("|".join(INERT))
        unread = {k: v for k, v in self._values.items() if k not in self._read and v is not None}
        left = {k: v for k, v in unread.items() if not inert.fullmatch(k)}
        if left:
            shown = ", ".join(f"{name}={value!r}" for name, value in left.items())
            raise ValueError(f"{self._source}: {shown} is not handled: its effect on the model is unknown here")
        for inner in self._nested.values():
            inner.finish()


INERT = (
    "_.*",
    "architectures",
    "model_type",
    "transformers_version",
    "(torch_)?dtype",
    ".*_token_id",
    "use_cache",
    "return_dict(_in_generate)?",
    "output_(attentions|hidden_states|scores)",
    "initializer_(range|factor)",
    "gradient_checkpointing",
    "task_specific_params",
    "tokenizer_class",
    "problem_type",
    "(id2label|label2id)",
    "chunk_size_feed_forward",
)
"""Attributes of transformers' configs that do not change what a model computes, as regular expressions."""


def _shifted(x: Any, by: float) -> Any:
    """x + by, in float32 or wider; x itself when `by` is 0."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)) + by if by else x


def _join(parts: Sequence[Any], how: str) -> Any:
    if len(parts) == 1:
        return parts[0]
    return getattr(np if isinstance(parts[0], np.ndarray) else jnp, how)(parts)


def differences(rules: Iterable[Rule], ours: Iterable[str], theirs: Iterable[str], ignored: Iterable[str]) -> list[str]:
    """What keeps rules from using every leaf and every tensor exactly once, a line each; [] when nothing does.

    Args:
      rules: of the family, for this config.
      ours: the model's canonical paths.
      theirs: the names that the file has.
      ignored: regular expressions of names that may be left over.
    """
    lines, skip = [], [re.compile(pattern) for pattern in ignored]
    for side, have in (("ours", set(ours)), ("theirs", set(theirs))):
        uses: dict[str, int] = {}
        for rule in rules:
            for name in getattr(rule, side):
                uses[name] = uses.get(name, 0) + 1
        owner = "the model" if side == "ours" else "the file"
        lines += [f"{name} is used {n} times" for name, n in uses.items() if n > 1]
        lines += [f"{name} is missing in {owner}" for name in uses if name not in have]
        left = sorted(have - uses.keys())
        if side == "theirs":
            left = [name for name in left if not any(pattern.fullmatch(name) for pattern in skip)]
        lines += [f"{name} of {owner} is not used" for name in left]
    return lines
