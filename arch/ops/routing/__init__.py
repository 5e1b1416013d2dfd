"""Routing of tokens to experts: one algorithm a file, each a pure function `route(logits, real, *, ...)`.

`logits` [b t e] are a router's scores and `real` [b t] marks the tokens that are no padding; every row of the batch
is routed by itself (it is GShard's "group"). What comes out is one of the three classes of `assignment`, from which
every dispatch reads the same: which token goes to which expert, and with what weight. Randomness comes in as `key`,
and `key=None` is the deterministic form. Scores, softmaxes and losses are computed in float32 whatever the logits'
type.
"""
