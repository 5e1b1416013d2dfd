"""configs/preset.py takes any published decoder by its name."""

import runpy

import pytest

from arch import config
from arch.families import mixtral
from arch.train import experiment
from tests.commands import ROOT

GET = runpy.run_path(str(ROOT / "configs" / "preset.py"))["get_config"]


def test_the_model_is_the_preset_that_is_named():
    cfg = experiment.from_dict(GET("mixtral.mixtral_8x7b"))
    assert cfg.model == mixtral.PRESETS["mixtral_8x7b"]


def test_a_row_is_no_longer_than_the_positions_that_a_preset_knows():
    assert GET("gpt.gpt2_small").seq_len == 1024 and GET("llama.llama2_7b").seq_len == 2048


@pytest.mark.parametrize("name", ["llama2_7b", "t5.t5_small", "llama.llama9"])
def test_a_preset_that_there_is_not_is_refused_with_those_that_there_are(name):
    with pytest.raises(config.ConfigError, match=f"option preset='{name}' must be one of .*llama.llama2_7b"):
        GET(name)
