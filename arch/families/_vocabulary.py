"""Words of config.json that many families share: activation functions and rotary schemes.

transformers 5 writes `rope_parameters`; older ones `rope_theta` and `rope_scaling`. Both are read; the older is
written, since everything reads it.
"""

from arch.layers.contract import Position
from arch.positions import rope, rope_linear, rope_llama3, rope_yarn
from arch.published import Attributes

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu_squared",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
"""Our activation functions by transformers' names; where several mean the same, the first is written."""

SCALED = {
    "linear": (rope_linear.Config, {"factor": "factor"}),
    "yarn": (
        rope_yarn.Config,
        {
            "factor": "factor",
            "original_max_position_embeddings": "original_length",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "attention_factor": "amplitude",
            "truncate": "truncate",
        },
    ),
    "llama3": (
        rope_llama3.Config,
        {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_max_position_embeddings": "original_length",
        },
    ),
}
"""Our scaled rotary schemes by transformers' `rope_type`, with our fields by transformers' names."""


def read_activation(attributes: Attributes, name: str, default: str) -> str:
    """Our name of the activation function that the attribute `name` holds. Raises ValueError if we have none."""
    theirs = attributes.get(name, default)
    if theirs not in ACTIVATIONS:
        raise ValueError(f"{name}={theirs!r} must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[theirs]


def write_activation(activation: str) -> str:
    """transformers' name of an activation function."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == activation)


def read_rope(
    attributes: Attributes, *, theta: str = "rope_theta", base: float = 10000.0, fraction: str = "", share: float = 1.0
) -> Position:
    """The rotary scheme of a published config.

    Args:
      attributes: of the model.
      theta: name of the attribute that holds the base in older configs.
      base: its default.
      fraction: name of the attribute that holds the share of the channels that turn; '' where all do.
      share: its default.

    Raises:
      ValueError: a scheme, or a parameter of one, that is not expressed here ('dynamic', 'longrope').
    """
    values = attributes.nested("rope_parameters" if attributes.get("rope_parameters", {}) else "rope_scaling")
    plain = {"theta": values.get("rope_theta", attributes.get(theta, base))}
    if fraction:
        plain["fraction"] = values.get("partial_rotary_factor", attributes.get(fraction, share))
    else:
        values.expect("partial_rotary_factor", 1.0, None)
    kind = values.get("rope_type", values.get("type", "default"))
    length = attributes.get("max_position_embeddings", 0)
    if kind == "default":
        return rope.Config(**plain)
    if kind not in SCALED:
        raise ValueError(f"config.json: rope_type={kind!r} must be one of default, {', '.join(SCALED)}")
    scheme, names = SCALED[kind]
    optional = {"beta_fast": 0, "beta_slow": 0, "attention_factor": 0, "truncate": True}
    optional["original_max_position_embeddings"] = length or ...
    given = {ours: values.get(theirs, optional.get(theirs, ...)) for theirs, ours in names.items()}
    return scheme(**plain, **{ours: value for ours, value in given.items() if value or value is False})


def write_rope(position: Position, *, theta: str = "rope_theta", fraction: str = "") -> dict:
    """The attributes of a rotary scheme, the inverse of `read_rope`.

    Raises:
      ValueError: it is no rotary scheme, or one that config.json cannot name.
    """
    kinds = {rope.Config: ("default", {})} | {scheme: (kind, names) for kind, (scheme, names) in SCALED.items()}
    name = type(position).__module__.rsplit(".", 1)[-1]
    if type(position) not in kinds:
        shown = ", ".join(scheme.__module__.rsplit(".", 1)[-1] for scheme in kinds)
        raise ValueError(f"position={name!r} must be one of {shown} in this family")
    kind, names = kinds[type(position)]
    out = {theta: position.theta}
    if fraction:
        out[fraction] = position.fraction
    if kind != "default":
        fields = {theirs: getattr(position, ours) for theirs, ours in names.items()}
        out["rope_scaling"] = {"rope_type": kind} | {k: v for k, v in fields.items() if v or v is False}
    if "original_max_position_embeddings" in names:
        out["max_position_embeddings"] = round(position.factor * position.original_length)
    if read_rope(Attributes(out), theta=theta, fraction=fraction) != position:
        raise ValueError(f"position={position} cannot be written in this family: config.json holds {out}")
    return out
