"""Cases of each kernel on a GPU, a file for each folder of arch/kernels, whose name it has.

Each offers `CASES`; `found(case, **how)`, results and gradients by name, as the implementation named by `how` computes
them; `exact(case)`, the same by the reference, in float32 or wider; and `unit(case)`, the rounding of one operation
relative to the greatest number of a result. The small cases of the tests are these at other sizes.
"""
