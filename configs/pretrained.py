"""A published model: continued, measured or trained further, from a folder of safetensors or a GGUF file.

Source:    what --config.init_from names: its weights, its config, its tokenizer and its chat template.
Commands:  python run.py --config=configs/pretrained.py --config.init_from=PATH --workdir=runs/pretrained ...
             --mode=generate --prompt='Once upon a time' [--chat] [--verify]
             --mode=eval --config.data.path=TEXT            nats per token and bits per byte of a text
             --mode=train --config.data.path=TEXT           fine-tuning
             --mode=export --export_to=FOLDER [--verify]
Hardware:  2 CPU cores
Time:      20 seconds to the first token of SmolLM2-135M
Expected:  SmolLM2-135M-Instruct (GGUF, Q4_1) on this repository's LICENSE: loss 2.836 nats per token, 0.798 bits per
           byte; its logits are within 0.001 of transformers' (--verify).

The model is that of PATH, so that leaves of it can be overridden which leave its weights as they are:
--config.model.dtype=bfloat16, --config.model.layers.remat=full. With an argument,
--config=configs/pretrained.py:experts=8 (and top_k=2, unless it says otherwise), each ffn of PATH becomes that many
experts, which compute the same at first (--config.upcycle_noise=0.01 makes them differ); --mode=eval shows that the
loss is PATH's.
"""

from arch import config
from arch.adapt.upcycle import with_mixtures
from arch.families import llama
from arch.train import command_line, experiment, initial


def get_config(arg=""):
    """The run's config. Without --config.init_from its model is SmolLM2-135M, and nothing can be run."""
    options = config.parse_arg(arg, experts=0, top_k=2)
    path = command_line.override("init_from")
    model = initial.published_model(path) if path else llama.PRESETS["smollm2_135m"]
    if options.experts:
        model = with_mixtures(model, num_experts=options.experts, top_k=options.top_k)
    return experiment.config_dict(
        model=model,
        init_from=path,
        upcycle=bool(options.experts and path),
        data=dict(tokenizer=dict(kind="pretrained", path=path, separator="")),
        optimizer=dict(learning_rate=2e-5, warmup_steps=20, final_share=0.1),
        total_steps=200,
        batch_size=8,
        seq_len=512,
        checkpoint_every_steps=100,
        sample=dict(temperature=0.0),
    )
