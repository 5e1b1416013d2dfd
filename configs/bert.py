"""A small BERT, pretrained: masked tokens of pairs of texts, and whether the second text follows the first.

Source:    Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1, in small; rate and decay from appendix A.2, the rate
           raised for the size.
Text:      the Python standard library's own source, 7 MB, or --config.data.path=FILE_OR_FOLDER.
Command:   python run.py --config=configs/bert.py --workdir=runs/bert
           python run.py --config=configs/bert.py:pairs=false --workdir=runs/roberta        # packed text, no pairs
Hardware:  2 CPU cores
Time:      not measured to its end; 60 steps ran at 600 tokens/s on a machine that others shared: 45 minutes at that
Expected:  not measured yet: loss 7.114 in training at step 60, with pairs that were drawn otherwise; an untrained model
           has a loss of 8.3 (ln 2048 + ln 2) and an accuracy of 0.0005
"""

from arch import config
from arch.families import bert
from arch.heads import masked_lm, pretraining
from arch.train import experiment

VOCAB_SIZE = 2048
SEQ_LEN = 128


def get_config(arg=""):
    """The run's config; see the file's head for the option in `arg`."""
    options = config.parse_arg(arg, pairs=True)
    head = pretraining.Config() if options.pairs else masked_lm.Config()
    tokenizer = dict(kind="bpe", vocab_size=VOCAB_SIZE, specials=("[MASK]", "[CLS]", "[SEP]"))
    return experiment.config_dict(
        model=bert.compose(embed_dim=128, num_layers=4, num_heads=4, vocab_size=VOCAB_SIZE, length=SEQ_LEN, head=head),
        task=dict(name="masked_tokens", next_sentence=options.pairs),
        data=dict(tokenizer=tokenizer),
        optimizer=dict(learning_rate=1e-3, warmup_steps=50, final_share=0.0, b2=0.98, weight_decay=0.01),
        total_steps=400,
        batch_size=32,
        seq_len=SEQ_LEN,
        log_every_steps=20,
        eval_batches=16,
        checkpoint_every_steps=200,
    )
