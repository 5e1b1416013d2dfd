"""A published encoder under another head: its body as it is, of the new head what the checkpoint has, the rest fresh.

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3: the same pretrained parameters start the models of all tasks, and
each task adds an output layer of its own.
"""

import dataclasses
import logging
from typing import Any

from arch import tree
from arch.published import Rule
from arch.weights.pretrained import Published, names_of
from arch.weights.target import canonical

HEAD = "head/"
"""How the paths of a head's parameters begin."""

log = logging.getLogger("arch")


def with_head(found: Published, head: Any) -> Published:
    """The checkpoint as one of the model with this head.

    What of the head is taken, what starts fresh, and which tensors are left out, is logged.

    Args:
      found: of an encoder.
      head: the config of the head that the model shall have.

    Returns:
      The checkpoint, whose `fresh` are the head's parameters that it lacks or has in another shape.
    """
    config = found.config.replace(head=head)
    rules = tuple(found.family.rules(config))
    ours = tree.paths(canonical(config))
    names = names_of((*rules, *found.rules), found.source, found.family, config)
    held = tuple(rule for rule in rules if _holds(rule, ours, names, found))
    fresh = tuple(path for rule in rules if rule not in held for path in rule.ours)
    if body := [path for path in fresh if not path.startswith(HEAD)]:
        raise ValueError(f"{found.source.path} lacks {', '.join(body)}, which no head may leave out")
    used = {name for rule in held for name in rule.theirs}
    left = [name for rule in found.rules for name in rule.theirs if name not in used]
    if fresh or left:
        log.info("%s has another head: fresh are %s; left out are %s", found.source.path, _named(fresh), _named(left))
    kept = tuple(path for path in ours if path.startswith(HEAD) and path not in fresh)
    if kept and (head != found.config.head or _labelled(head, kept)):
        order = ", its labels in the checkpoint's order, which may not be the data's" if _labelled(head, kept) else ""
        log.warning("%s: of the head are taken as they are %s%s", found.source.path, _named(kept), order)
    return dataclasses.replace(found, config=config, rules=held, names=names, fresh=fresh)


def _holds(rule: Rule, ours: dict, names: dict[str, str], found: Published) -> bool:
    """Whether the checkpoint has a rule's tensors in the shapes that the model wants."""
    if not all(name in names for name in rule.theirs):
        return False
    shapes = [found.source.tensors[names[name]].shape for name in rule.theirs]
    return shapes == rule.shapes([ours[path] for path in rule.ours])


def _labelled(head: Any, kept: tuple[str, ...]) -> bool:
    """Whether what is kept of a head has an output for each label."""
    return hasattr(head, "num_labels") and f"{HEAD}output" in kept


def _named(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) or "none"
