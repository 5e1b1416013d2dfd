"""Configs check themselves, cross once from nested dicts, and name path, value, rule and the nearest name."""

import dataclasses
import importlib
import re
from typing import Literal

import pytest
from absl import flags
from ml_collections import config_flags

from arch import config
from arch.ffns import mlp
from arch.layers import block, stack
from arch.mixers import attention, mamba
from arch.models import decoder
from arch.positions import rope
from tests.contracts.sublayers import ROOT


@config.frozen
class Inner(config.Config):
    width: config.PositiveInt = 3
    shares: tuple[float, ...] = ()


@config.frozen
class Outer(config.Config):
    size: int
    ratio: config.NonNegativeFloat = 0.5
    share: config.Fraction = 0.25
    rate: config.PositiveFloat = 0.1
    flag: bool = False
    name_of_it: str = ""
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[int, str] = (1, "a")
    inner: Inner = Inner()
    layers: tuple[Inner, ...] = ()
    mixer: config.choice("mixers") = attention.Config(num_heads=2, head_dim=3)

    def check(self):
        if self.size % 2:
            raise ValueError(f"size={self.size} must be even")


# Construction


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(size="4"), "size='4' must be of type int"),
        (dict(size=4.0), "size=4.0 must be of type int"),
        (dict(size=True), "size=True must be of type int"),
        (dict(size=3), "size=3 must be even"),
        (dict(size=2, ratio="x"), "ratio='x' must be of type float"),
        (dict(size=2, ratio=True), "ratio=True must be of type float"),
        (dict(size=2, ratio=-0.5), "ratio=-0.5 must be at least 0"),
        (dict(size=2, ratio=float("nan")), "ratio=nan must be at least 0"),
        (dict(size=2, ratio=float("inf")), "ratio=inf must be finite"),
        (dict(size=2, share=float("inf")), "share=inf must be at least 0 and at most 1"),
        (dict(size=2, ratio=10**400), "000 must be finite"),
        (dict(size=2, rate=0), "rate=0.0 must be above 0"),
        (dict(size=2, share=1.5), "share=1.5 must be at least 0 and at most 1"),
        (dict(size=2, flag=1), "flag=1 must be of type bool"),
        (dict(size=2, name_of_it=3), "name_of_it=3 must be of type str"),
        (dict(size=2, mode="quick"), "mode='quick' must be one of 'fast', 'slow'"),
        (dict(size=2, pair=[1, "a"]), "pair=[1, 'a'] must be a tuple"),
        (dict(size=2, pair=(1,)), "pair=(1,) must be a tuple of 2"),
        (dict(size=2, pair=(1, 2)), "pair[1]=2 must be of type str"),
        (dict(size=2, inner=3), "inner=3 must be of type "),
        (dict(size=2, layers=(Inner(), 4)), "layers[1]=4 must be of type "),
        (dict(size=2, mixer=3), "mixer=3 must be of type arch.config.Config"),
    ],
)
def test_a_bad_value_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Outer(**fields)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_without_a_range_must_be_finite_too(number):
    with pytest.raises(ValueError, match=re.escape(f"shares[1]={number} must be finite")):
        Inner(shares=(0.5, number))


def test_an_int_for_a_float_becomes_one():
    assert type(Outer(size=2, ratio=1).ratio) is float


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outer(size=2).size = 4


def test_a_copy_is_checked_anew():
    with pytest.raises(ValueError, match="size=5 must be even"):
        Outer(size=2).replace(size=5)


def test_equal_configs_are_equal_keys():
    assert {Outer(size=2): 1}[Outer(size=2)] == 1


# From a dict

GOOD = dict(size=2, inner=dict(width=5), layers=(dict(width=7), dict()), mixer=dict(name="mamba", inner_dim=4))


def test_a_dict_becomes_a_config():
    assert config.from_dict(Outer, GOOD) == Outer(
        size=2, inner=Inner(width=5), layers=(Inner(width=7), Inner()), mixer=mamba.Config(inner_dim=4)
    )


def test_a_list_of_configs_is_taken_as_a_tuple():
    assert config.from_dict(Outer, GOOD | dict(layers=[dict(width=7), dict()])) == config.from_dict(Outer, GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(sizes=3), "model.sizes is no field of tests.test_config.Outer; did you mean 'size'?"),
        (dict(inner=dict(widht=3)), "model.inner.widht is no field of tests.test_config.Inner; did you mean 'width'?"),
        (dict(inner=dict(zzz=3)), "model.inner.zzz is no field of tests.test_config.Inner; there are width, shares"),
        (dict(layers=(dict(), dict(with_=1))), "model.layers[1].with_ is no field"),
        (dict(inner=dict(width=0)), "model.inner.width=0 must be at least 1"),
        (dict(inner=dict(width=None)), "model.inner.width=None must be of type int"),
        (dict(inner=dict(shares=(0.5, "x"))), "model.inner.shares[1]='x' must be of type float"),
        (dict(inner=4), "model.inner=4 must be a mapping with the fields of tests.test_config.Inner"),
        (dict(layers=4), "model.layers=4 must be a tuple"),
        (dict(size=3), "model: size=3 must be even"),
        (dict(pair=(1, 2, 3)), "model.pair=(1, 2, 3) must be a tuple of 2"),
        (dict(mixer=dict(inner_dim=4)), "model.mixer={'inner_dim': 4} must be a mapping with a 'name'"),
        (dict(mixer="mamba"), "model.mixer='mamba' must be a mapping with a 'name'"),
        (dict(mixer=dict(name="mmaba")), "model.mixer.name='mmaba' is no file of arch/mixers; did you mean 'mamba'?"),
        (dict(mixer=dict(name="../ffns/mlp")), "model.mixer.name='../ffns/mlp' is no file of arch/mixers"),
        (dict(mixer=dict(name="mlp")), "model.mixer.name='mlp' is no file of arch/mixers"),
        (dict(mixer=dict(name=3)), "model.mixer.name=3 is no file of arch/mixers"),
        (dict(mixer=dict(name="mamba")), "model.mixer.inner_dim is missing: arch.mixers.mamba.Config has no default"),
        (dict(mixer=dict(name="mamba", inner=4)), "arch.mixers.mamba.Config; did you mean 'inner_dim'?"),
        (
            dict(mixer=dict(name="attention", num_heads=6, num_kv_heads=4, head_dim=2)),
            "model.mixer: num_heads=6 must be a multiple of num_kv_heads=4",
        ),
    ],
)
def test_a_bad_dict_is_refused_with_the_whole_path(change, message):
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        config.from_dict(Outer, GOOD | change, "model")


def test_a_missing_key_is_named():
    with pytest.raises(config.ConfigError, match=re.escape("size is missing: tests.test_config.Outer has no default")):
        config.from_dict(Outer, {})


def _examples():
    for folder in ("mixers", "ffns", "positions"):
        for file in sorted((ROOT / folder).glob("[!_]*.py")):
            yield from importlib.import_module(f"arch.{folder}.{file.stem}").EXAMPLES


@pytest.mark.parametrize("cfg", tuple(_examples()), ids=lambda cfg: type(cfg).__module__)
def test_every_example_survives_the_way_to_a_dict_and_back(cfg):
    assert config.from_dict(type(cfg), config.to_dict(cfg)) == cfg


ATTENTION = attention.Config(num_heads=2, head_dim=3, position=rope.Config(theta=7.0))
MODEL = decoder.Config(
    vocab_size=11,
    embed_dim=6,
    layers=stack.Config(
        pattern=(
            block.Config(sublayers=(ATTENTION, mlp.Config(hidden_dim=5))),
            block.Config(sublayers=(mamba.Config(inner_dim=4),)),
        ),
        repeats=2,
    ),
)


def test_a_whole_model_survives_the_way_to_a_dict_and_back():
    assert config.from_dict(decoder.Config, config.to_dict(MODEL)) == MODEL


def test_a_dict_names_the_files_of_chosen_configs_only():
    tree = config.to_dict(MODEL)
    assert "name" not in tree and "name" not in tree["layers"]["pattern"][0]
    attended = tree["layers"]["pattern"][0]["sublayers"][0]
    assert attended["name"] == "attention" and attended["position"]["name"] == "rope"


# The edge


@pytest.fixture
def override(monkeypatch):
    """A function that gives the config after these overrides on the command line."""

    def overridden(tree, *overrides):
        monkeypatch.setattr("sys.argv", ["test", *overrides])
        values = flags.FlagValues()
        config_flags.DEFINE_config_dict("config", tree, flag_values=values)
        values(["test", *overrides])
        return config.from_dict(decoder.Config, values["config"].value)

    return overridden


def _edge(repeated: bool = False):
    one = dict(sublayers=(dict(name="attention", num_heads=2, head_dim=3), dict(name="mlp", hidden_dim=5)))
    pattern = (one,) * 3 if repeated else (one,)
    return config.config_dict(decoder.Config, dict(vocab_size=11, embed_dim=6, layers=dict(pattern=pattern)))


def test_every_default_is_a_leaf():
    tree = _edge()
    assert tree.layers.pattern[0].sublayers[0].position.theta == 10000.0 and tree.layers.remat == "none"


def test_an_override_reaches_into_tuples_of_blocks(override):
    cfg = override(_edge(), "--config.layers.pattern[0].sublayers[1].hidden_dim=9", "--config.layers.repeats=3")
    assert cfg.layers.pattern[0].sublayers[1].hidden_dim == 9 and cfg.layers.repeats == 3


def test_an_override_of_one_of_several_equal_blocks_leaves_the_others(override):
    cfg = override(_edge(repeated=True), "--config.layers.pattern[1].sublayers[1].hidden_dim=9")
    assert [layer.sublayers[1].hidden_dim for layer in cfg.layers.pattern] == [5, 9, 5]


def test_an_int_overrides_a_float(override):
    assert override(_edge(), "--config.dropout=0").dropout == 0.0


def test_a_bad_override_is_refused_with_the_whole_path(override):
    message = "layers.pattern[0].sublayers[0].num_heads=0 must be at least 1"
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        override(_edge(), "--config.layers.pattern[0].sublayers[0].num_heads=0")


def test_the_edge_checks_before_any_flag_is_applied():
    with pytest.raises(config.ConfigError, match=re.escape("embed_dims is no field of arch.models.decoder.Config")):
        config.config_dict(decoder.Config, dict(vocab_size=11, embed_dims=6))


# The argument of a config file


@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        ("", dict(mixer="hybrid", layers=2, rate=0.5, tiny=False)),
        ("mamba", dict(mixer="mamba", layers=2, rate=0.5, tiny=False)),
        ("tiny", dict(mixer="hybrid", layers=2, rate=0.5, tiny=True)),
        ("mamba, layers=3,rate=1,tiny=true", dict(mixer="mamba", layers=3, rate=1.0, tiny=True)),
        ("tiny=False,mixer=attention", dict(mixer="attention", layers=2, rate=0.5, tiny=False)),
    ],
)
def test_an_argument_sets_options(arg, expected):
    assert vars(config.parse_arg(arg, mixer="hybrid", layers=2, rate=0.5, tiny=False)) == expected


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("mixr=mamba", "option 'mixr' in config argument 'mixr=mamba' is unknown; did you mean 'mixer'?"),
        ("layers=two", "option layers='two' must be of type int"),
        ("tiny=perhaps", "option tiny='perhaps' must be of type bool"),
        ("mamba,mixer=moe", "option 'mixer' in config argument 'mamba,mixer=moe' is given twice"),
    ],
)
def test_a_bad_argument_is_refused(arg, message):
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        config.parse_arg(arg, mixer="hybrid", layers=2, tiny=False)


def test_a_bare_word_without_options_is_refused():
    with pytest.raises(config.ConfigError, match="option 'tiny' in config argument 'tiny' is unknown"):
        config.parse_arg("tiny")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": 2**31}, "size=2147483648 must be at least 1 and at most 2147483647"),
        ({"count": 2**63}, "count=9223372036854775808 must be an integer of 64 bits"),
        ({"rate": 1e39}, "rate=1e+39 must be at most 3.40282e+38 in size, what a float32 holds"),
        ({"rate": -1e39}, "rate=-1e+39 must be at most 3.40282e+38 in size, what a float32 holds"),
    ],
)
def test_numbers_that_no_array_holds_are_refused(value, message):
    @config.frozen
    class Numbers(config.Config):
        size: config.PositiveInt = 2**31 - 1
        count: config.NonNegativeInt = 2**63 - 1
        rate: float = 3.4e38

    Numbers()
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        Numbers(**value)
