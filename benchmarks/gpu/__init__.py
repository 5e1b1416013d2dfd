"""What a GPU is asked when there is one: is each kernel right, and how fast is it beside others.

    make bench-gpu                                   all parts, then the table
    python -m benchmarks.gpu [PART ...] [--minutes=M] [--again]
    python -m benchmarks.gpu.check [PART ...]        compiles all of it for an H200 that is not here
    python -m benchmarks.gpu.carry                   brings the peers' packages into the folder .peers
    python -m benchmarks.gpu.report                  the table of what is kept

A part is a file here with `PIECES`, each run by itself and kept at once in benchmarks/results/gpu-<part>.json, so that
whatever stops a run loses one piece. The same command again goes on with what is missing; a piece that is kept is run
again where the code that it ran has changed, or with --again.

On a machine that is lent for some minutes a command and forgets everything: carry .peers, give each command --minutes
of two less than it has, and put what comes back under `$OUT`, to which results are copied, into benchmarks/results, so
that the next command goes on. The parts stand in `names.PARTS` in the order of what must not be missed.
"""
