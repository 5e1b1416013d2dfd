"""Few cases that cover all pairs: each value of each factor meets each value of every other factor at least once."""

import itertools
from collections.abc import Sequence


def pairs(case: Sequence[int]) -> set[tuple]:
    """The pairs of (factor, value) that a case covers."""
    return set(itertools.combinations(enumerate(case), 2))


def pairwise(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Cases over factors with so many values each, as indices.

    Greedy: each case starts from a pair not covered yet and takes, factor by factor, the value that covers most others.
    """
    todo = {
        ((i, a), (j, b))
        for i, j in itertools.combinations(range(len(sizes)), 2)
        for a in range(sizes[i])
        for b in range(sizes[j])
    }
    cases = []
    while todo:
        chosen = dict(min(todo))
        for factor in range(len(sizes)):
            if factor not in chosen:
                gain = lambda value: sum(tuple(sorted(((factor, value), old))) in todo for old in chosen.items())
                chosen[factor] = max(range(sizes[factor]), key=gain)
        cases.append(tuple(chosen[factor] for factor in range(len(sizes))))
        todo -= pairs(cases[-1])
    return cases
