"""Each claim's first point in tiny: the same code paths, a few steps, small arrays."""


def moe_load_imbalance(cfg):
    return cfg.replace(total_steps=3, batch_size=8, seq_len=16, eval_batches=1, log_every_steps=1)


def recall_and_induction(cfg):
    task = cfg.task.replace(pairs=2, train_rows=16, valid_rows=5)
    model = cfg.model.replace(position=cfg.model.position.replace(length=6))
    cfg = cfg.replace(task=task, model=model, seq_len=6, batch_size=8, total_steps=3)
    return cfg.replace(eval_every_percent=0.0, eval_every_steps=2)


def hyena_recall(cfg):
    task = cfg.task.replace(pairs=3, train_rows=16, valid_rows=8)
    return cfg.replace(task=task, seq_len=task.seq_len, total_steps=3, batch_size=8)


def induction_heads(cfg):
    task = cfg.task.replace(train_rows=16, valid_rows=8)
    return cfg.replace(task=task, total_steps=3, batch_size=8)


def parameter_counts(cfg):
    return cfg.replace(models=("mamba_lm.mamba_130m",))


def performer_approximation(cfg):
    return cfg.replace(length=17, head_dim=4, features=(4, 8), samples=2)


def flash_attention(cfg):
    return cfg.replace(num_heads=2, head_dim=4, lengths=(130, 260), exact_length=130)


def gradient_checkpointing(cfg):
    return cfg.replace(depths=(4,), embed_dim=4, num_heads=2, hidden_dim=8, batch_size=2, length=5)


def kv_cache(cfg):
    return cfg.replace(what="time", num_heads=2, head_dim=4, num_layers=1, hidden_dim=8, context=5, turns=2)


def attention_scaling(cfg):
    return cfg



def length_extrapolation(cfg):
    return cfg.replace(total_steps=2, batch_size=8, seq_len=8, eval_batches=1)


def selective_copying(cfg):
    task = cfg.task.replace(length=6, letters_copied=2, train_rows=16, valid_rows=8)
    return cfg.replace(task=task, seq_len=task.seq_len, total_steps=3, batch_size=8)


def multi_query_recall(cfg):
    task = cfg.task.replace(length=12, pairs=2, vocab_size=14, train_rows=16, valid_rows=8)
    model = cfg.model.replace(position=cfg.model.position.replace(length=task.seq_len))
    return cfg.replace(task=task, model=model, seq_len=task.seq_len, total_steps=3, batch_size=8)


def long_range(cfg):
    task = cfg.task.replace(max_depth=2, min_length=3, max_length=9, train_rows=16, valid_rows=8)
    return cfg.replace(task=task, seq_len=task.seq_len, total_steps=3, batch_size=8)


def window_quality(cfg):
    return cfg.replace(total_steps=2, batch_size=8, seq_len=16, eval_batches=1)


def switch_ablation(cfg):
    return cfg.replace(total_steps=2, batch_size=8, seq_len=16, eval_batches=1)


def equal_size(cfg):
    return cfg.replace(total_steps=2, batch_size=8, seq_len=16, eval_batches=1)


TINY = {name: make for name, make in globals().items() if callable(make)}
