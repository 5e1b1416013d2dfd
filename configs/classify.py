"""A small BERT that tells which package of Python's standard library a function is of; or a published one, fine-tuned.

Source:    Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 4.1, in small and without pretraining; rates from there
           when --config.init_from names a published encoder, whose head starts anew.
Data:      functions of the standard library and their packages (arch/data/standard_library.py), or your own records:
           --config.data.path=FILE.jsonl of {"text": ..., "label": ...}, --config.model.head.num_labels=COUNT; pairs of
           texts with --config.data.pair_field=FIELD.
Command:   python run.py --config=configs/classify.py --workdir=runs/classify
           python run.py --config=configs/classify.py --config.init_from=FOLDER --workdir=runs/classify-published
Hardware:  2 CPU cores
Time:      132 s of processor time beside other work; benchmarks/results/tasks-cpu.json
Expected:  accuracy 0.779 on the 253 functions of the validation split, 0.269 of which are of the likeliest package.
"""

from arch import config
from arch.families import bert
from arch.heads import classification
from arch.train import command_line, experiment, initial

NUM_LABELS = 9
VOCAB_SIZE = 1024
SEQ_LEN = 128


def get_config(arg=""):
    """The run's config."""
    config.parse_arg(arg)
    path = command_line.override("init_from")
    head = classification.Config(num_labels=NUM_LABELS, dropout=0.1)
    tiny = dict(embed_dim=64, num_layers=2, num_heads=4, vocab_size=VOCAB_SIZE, length=SEQ_LEN, head=head)
    own = dict(kind="pretrained", path=path, separator="")
    return experiment.config_dict(
        model=initial.published_model(path).replace(head=head) if path else bert.compose(**tiny),
        task=dict(name="classification"),
        init_from=path,
        data=dict(kind="classes", tokenizer=own if path else dict(kind="bpe", vocab_size=VOCAB_SIZE)),
        optimizer=dict(learning_rate=3e-5 if path else 1e-3, warmup_steps=20, final_share=0.0),
        total_steps=300,
        batch_size=32,
        seq_len=SEQ_LEN,
        log_every_steps=20,
        eval_every_steps=100,
        checkpoint_every_steps=100,
    )
