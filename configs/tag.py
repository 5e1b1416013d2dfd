"""A small BERT that tells what each token of a Python function is: a keyword, a name, a definition, a call ...

Source:    Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 5.3, in small and without pretraining.
Data:      the tokens of functions of the standard library and what they are (arch/data/standard_library.py), or your
           own records: --config.data.path=FILE.jsonl of {"tokens": [...], "tags": [...]}, and
           --config.model.head.num_labels=COUNT.
Command:   python run.py --config=configs/tag.py --workdir=runs/tag
           python run.py --config=configs/tag.py --config.init_from=FOLDER --workdir=runs/tag-published
Hardware:  2 CPU cores
Time:      120 s of processor time beside other work; benchmarks/results/tasks-cpu.json
Expected:  accuracy 0.950 on the 10 803 tokens of the validation split, 0.454 of which have the likeliest tag.
"""

from arch import config
from arch.families import bert
from arch.heads import tagging
from arch.train import command_line, experiment, initial

NUM_LABELS = 9
VOCAB_SIZE = 1024
SEQ_LEN = 128


def get_config(arg=""):
    """The run's config."""
    config.parse_arg(arg)
    path = command_line.override("init_from")
    head = tagging.Config(num_labels=NUM_LABELS, dropout=0.1)
    tiny = dict(embed_dim=64, num_layers=2, num_heads=4, vocab_size=VOCAB_SIZE, length=SEQ_LEN, head=head)
    own = dict(kind="pretrained", path=path, separator="")
    tokenizer = own if path else dict(kind="bpe", vocab_size=VOCAB_SIZE)
    return experiment.config_dict(
        model=initial.published_model(path).replace(head=head) if path else bert.compose(**tiny),
        task=dict(name="tagging"),
        init_from=path,
        data=dict(kind="tags", field="tokens", label_field="tags", max_bytes=1_000_000, tokenizer=tokenizer),
        optimizer=dict(learning_rate=3e-5 if path else 1e-3, warmup_steps=20, final_share=0.0),
        total_steps=300,
        batch_size=32,
        seq_len=SEQ_LEN,
        log_every_steps=20,
        eval_every_steps=100,
        checkpoint_every_steps=100,
    )
