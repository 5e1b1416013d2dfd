"""Modern sequence architectures in JAX: Linen modules from one contract, one trainer, proven by tests."""

from arch._install import refuse_clash as _refuse_clash

_refuse_clash()


def load(path):
    """The model and the parameters of a workdir or checkpoint: see `arch.train.library.load`."""
    from arch.train import library

    return library.load(path)


def load_tokenizer(path):
    """The tokenizer of a workdir or checkpoint: see `arch.train.library.load_tokenizer`."""
    from arch.train import library

    return library.load_tokenizer(path)
