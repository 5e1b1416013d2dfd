"""From a list of layers to a stack: what repeats in it is scanned, so that few layers are compiled."""

from arch.layers import block, stack


def folded(layers: tuple[block.Config, ...]) -> stack.Config:
    """The stack of these layers with the fewest blocks in prefix, pattern and suffix together."""
    kinds = list(dict.fromkeys(layers))
    numbers = [kinds.index(layer) for layer in layers]
    start, period, repeats = min(_repetitions(numbers), key=lambda found: len(layers) - (found[2] - 1) * found[1])
    end = start + period * repeats
    return stack.Config(
        prefix=layers[:start], pattern=layers[start : start + period], repeats=repeats, suffix=layers[end:]
    )


def _repetitions(numbers: list[int]):
    """Each (start, period, times) of a stretch that comes several times in a row; first all of it, once."""
    yield 0, len(numbers), 1
    for period in range(1, len(numbers) // 2 + 1):
        for start in range(len(numbers) - 2 * period + 1):
            times, stretch = 1, numbers[start : start + period]
            while numbers[start + times * period : start + (times + 1) * period] == stretch:
                times += 1
            yield start, period, times
