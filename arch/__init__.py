"""Modern sequence architectures in JAX: pure-functional Linen modules from one contract, one trainer, proven by tests."""

from arch._install import refuse_clash as _refuse_clash

_refuse_clash()
