"""A published decoder with fresh weights: `configs/preset.py:llama.llama2_7b` is the model of that paper, to look at.

Source:    arch/families/FAMILY.py, whose PRESETS name the papers and tables.
Commands:  python run.py --config=configs/preset.py:mixtral.mixtral_8x7b --mode=describe --config.mesh.fsdp=64
           python run.py --config=configs/preset.py:gpt.gpt2_small --workdir=runs/gpt2 --config.data.path=FILE_OR_FOLDER
Hardware:  CPU for --mode=describe of any of them
Time:      3.2 seconds of one core for --mode=describe of llama.llama3_1_405b
Expected:  405,853,388,800 parameters of that one. No loss is promised: a preset is an architecture, not a recipe.
"""

import importlib
import pathlib

import arch
from arch import config
from arch.models import decoder
from arch.train import experiment


def get_config(arg=""):
    """The run whose model is the preset FAMILY.NAME in `arg`."""
    model = _preset(config.parse_arg(arg, preset="gpt.gpt2_small").preset)
    return experiment.config_dict(
        model=model,
        data=dict(tokenizer=dict(kind="bpe", vocab_size=min(model.vocab_size, 32768))),
        optimizer=dict(learning_rate=3e-4, warmup_steps=100),
        total_steps=1000,
        batch_size=64,
        seq_len=min(model.max_length or 2048, 2048),
        checkpoint_every_percent=10.0,
    )


def _preset(text):
    files = (pathlib.Path(arch.__file__).parent / "families").glob("[a-z]*.py")
    modules = {file.stem: importlib.import_module(f"arch.families.{file.stem}") for file in files}
    presets = {f"{family}.{name}": cfg for family, module in modules.items() for name, cfg in module.PRESETS.items()}
    decoders = {name: cfg for name, cfg in presets.items() if isinstance(cfg, decoder.Config)}
    if text not in decoders:
        raise config.ConfigError(f"option preset={text!r} must be one of {', '.join(sorted(decoders))}")
    return decoders[text]
