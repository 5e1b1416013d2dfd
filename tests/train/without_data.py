"""run.py, whose process 0 reads 60 batches and no more: its disk is silent, or fails.

python without_data.py (silent | broken) FLAGS of run.py
"""

import pathlib
import runpy
import sys
import threading

import jax

from arch.train import loop

BATCHES = 60


def ending(read, how):
    """`dataset.batches`, that says how it ends behind so many batches, and then does that."""

    def batches(*args):
        for index, batch in enumerate(read(*args)):
            if index == BATCHES and jax.process_index() == 0:
                print(how, file=sys.stderr, flush=True)
                if how == "broken":
                    raise OSError("Input/output error: 'text'")
                threading.Event().wait()
            yield batch

    return batches


if __name__ == "__main__":
    loop.dataset.batches = ending(loop.dataset.batches, sys.argv.pop(1))
    runpy.run_path(str(pathlib.Path(__file__).parents[2] / "run.py"), run_name="__main__")
