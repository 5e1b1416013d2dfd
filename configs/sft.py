"""Supervised fine-tuning on conversations, the loss on the answers only: of a published chat model, or of a small GPT.

Source:    Ouyang et al., "Training language models to follow instructions with human feedback", 2022, arXiv
           2203.02155, sec. 3.1; without --config.init_from a decoder of 2 layers starts from nothing.
Data:      what functions of Python's standard library do, in the words of their docstrings
           (arch/data/standard_library.py), or your own records: --config.data.path=FILE.jsonl of
           {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}.
Command:   python run.py --config=configs/sft.py --workdir=runs/sft
           python run.py --config=configs/sft.py --config.init_from=FOLDER --workdir=runs/sft-published
           python run.py --workdir=runs/sft --mode=generate --chat --prompt='What does os.path.join do?'
Hardware:  2 CPU cores
Time:      49 s of processor time beside other work; benchmarks/results/tasks-cpu.json
Expected:  4.72 nats per token of the validation split's answers, where ids drawn blindly have 6.93. A model this small
           has only learned what an answer looks like.
"""

from arch import config
from arch.train import command_line, experiment, initial

VOCAB_SIZE = 1024
SEQ_LEN = 256


def get_config(arg=""):
    """The run's config."""
    config.parse_arg(arg)
    path = command_line.override("init_from")
    sublayers = (dict(name="attention", num_heads=4, head_dim=16), dict(name="gated_mlp", hidden_dim=192))
    tiny = dict(
        name="decoder",
        vocab_size=VOCAB_SIZE,
        embed_dim=64,
        layers=dict(pattern=(dict(sublayers=sublayers),), repeats=2),
    )
    own = dict(kind="pretrained", path=path, separator="")
    return experiment.config_dict(
        model=initial.published_model(path) if path else tiny,
        task=dict(name="chat"),
        init_from=path,
        data=dict(
            kind="chat",
            field="messages",
            tokenizer=own if path else dict(kind="bpe", vocab_size=VOCAB_SIZE),
        ),
        optimizer=dict(learning_rate=2e-5 if path else 3e-3, warmup_steps=20, final_share=0.1),
        total_steps=200,
        batch_size=8,
        seq_len=SEQ_LEN,
        log_every_steps=20,
        eval_every_steps=100,
        checkpoint_every_steps=100,
        sample_prompt="What does os.path.join do?",
        sample=dict(temperature=0.0),
    )
