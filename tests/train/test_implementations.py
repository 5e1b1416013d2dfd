"""The table of implementations says what each sublayer takes on the mesh and the device that it is traced for."""

import inspect

import pytest
from jax.sharding import AbstractDevice

from arch import config
from arch.kernels import compat, implementations
from arch.models import decoder, encoder_decoder
from arch.sharding import mesh as meshes
from arch.train.implementations import lines, table, traced

SIZES = dict(vocab_size=13, embed_dim=128)
MOE = dict(name="moe", num_experts=3, top_k=2, hidden_dim=64)
MAMBA = dict(name="mamba", inner_dim=16, state_dim=2)
HOPPER = compat.available()


def rows(device_kind, *sublayers, dtype="float32", length=9, tensor=1, **block):
    """The table of a decoder of such layers."""
    layers = dict(pattern=(dict(sublayers=sublayers, **block),), repeats=2)
    return of(config.from_dict(decoder.Config, SIZES | dict(dtype=dtype, layers=layers)), device_kind, length, tensor)


def of(cfg, device_kind, length, tensor=1):
    needs = inspect.signature(AbstractDevice).parameters
    known = {"device_kind": device_kind, "num_cores": None, "platform": device_kind.split()[0].lower()}
    device = AbstractDevice(**{name: value for name, value in known.items() if name in needs})
    mesh = meshes.abstract(meshes.Config(tensor=tensor), tensor).update(abstract_device=device)
    return table(cfg, traced(cfg, {"length": length, "source_length": length * hasattr(cfg, "encoder")}, mesh))


@pytest.mark.parametrize(
    ("device_kind", "dtype", "tensor", "expected"),
    [
        ("cpu", "bfloat16", 1, ("grouped perceptron", "blocks")),
        ("NVIDIA H200", "bfloat16", 1, ("grouped matmul", "mosaic" if HOPPER else "blocks")),
        ("NVIDIA H200", "float32", 1, ("grouped matmul", "blocks")),
        ("NVIDIA H200", "bfloat16", 2, ("grouped matmul", "blocks")),  # which leaves a device 32 hidden channels
    ],
)
def test_the_experts_products_are_said_once_for_each_way(device_kind, dtype, tensor, expected):
    found = rows(
        device_kind, MOE, MOE | dict(matmul="ragged_dot"), MOE | dict(dispatch="dense"), dtype=dtype, tensor=tensor
    )
    assert found == [("moe", *expected), ("moe_1", "grouped matmul", "ragged_dot"), ("moe_2", "", "xla")]


@pytest.mark.parametrize(
    ("device_kind", "scan"), [("cpu", "xla"), ("TPU v5p", "tpu"), ("NVIDIA H200", "hopper" if HOPPER else "xla")]
)
def test_recurrences_take_the_kernels_of_the_device_and_what_has_none_takes_xla(device_kind, scan):
    found = rows(device_kind, MAMBA, dict(name="mlp", hidden_dim=7))
    assert found == [("mamba", "selective scan", scan), ("mlp", "", "xla")]


@pytest.mark.parametrize("length, expected", [(9, "dense"), (300, "chunks")])
def test_attention_of_long_rows_goes_by_chunks(length, expected):
    found = rows("cpu", dict(name="attention", num_heads=2, head_dim=4), length=length)
    assert found == [("attention", "attention", expected)]


def test_both_stacks_of_a_pair_are_there():
    heads = dict(num_heads=2, head_dim=4)
    encoder = dict(pattern=(dict(sublayers=(dict(name="attention", causal=False, **heads),)),))
    layers = dict(pattern=(dict(sublayers=(dict(name="rwkv4"), dict(name="cross_attention", **heads))),))
    cfg = config.from_dict(encoder_decoder.Config, SIZES | dict(encoder=encoder, decoder=layers))
    assert of(cfg, "cpu", 5) == [
        ("attention", "attention", "dense"),
        ("rwkv4", "WKV", "xla"),
        ("cross_attention", "", "xla"),
    ]


def test_lines_of_the_log_name_sublayer_operation_and_device():
    said = lines([("moe", "grouped matmul", "mosaic"), ("mlp", "", "xla")], "NVIDIA H200")
    assert said == ["moe: grouped matmul by 'mosaic' on NVIDIA H200", "mlp: all by 'xla' on NVIDIA H200"]


def test_nothing_is_kept_where_nobody_collects():
    implementations.tell("WKV", "xla")
    with implementations.told() as found:
        pass
    implementations.tell("WKV", "xla")
    assert found == {}
