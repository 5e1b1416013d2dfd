"""The tiny models on which ours are held to transformers': classes, configs, inputs, and weights seeded by name.

Nothing here needs more than NumPy: the peers' side (`tests/parity/peer.py`) and ours (`tests/parity/test_families.py`)
read the same list. Sizes are small and distinct, so that a confusion of axes cannot go unnoticed; no weight is 0 and no
scale is 1, so that none can be overlooked.
"""

import dataclasses
import pathlib
import re
import zlib
from typing import Any

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "goldens"
VOCAB = 53
LENGTHS = (11, 7)
"""Tokens in the two rows of the padded batch."""
DOCUMENTS = (6, 5, 4)
"""Tokens in the documents of the packed row."""
PROMPTS = (7, 1, 4)
"""Tokens in the prompts of the greedy continuations."""
NEW = 9
"""Tokens that continue a prompt."""
START = 3
"""The id that a decoder beside an encoder starts from. Not that of padding, whose vector torch gives no gradient."""
SPECIAL = 4
"""Ids below this one stand for padding, start and end; no text holds them."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
      model: transformers' class.
      config: what its config's class is called with; `vocab_size` and the special ids are added.
      gradients: tensors whose gradients are kept whole; () when no gradients are taken.
      attributes: what the published config.json says otherwise than today's transformers writes it; None for nothing.
      tensors: published tensors that today's transformers would not write, with their shapes.
      attention: transformers' implementation. Its eager Falcon counts ALiBi twice, in the logits and in the mask.
      zero: a regular expression of tensors that are 0, because the paper's model has none or no output reads them.
      lengths: tokens in the two rows of the padded batch.
      training: whether it computes as in training, but for dropout: BigBird draws its random blocks only then.
    """

    model: str
    config: dict[str, Any]
    gradients: tuple[str, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    tensors: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    attention: str = "eager"
    zero: str = ""
    lengths: tuple[int, int] = LENGTHS
    training: bool = False

    def value(self, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
        """The published tensor of this name."""
        return np.zeros(shape, np.float32) if re.fullmatch(self.zero, tensor) else weights(tensor, shape)

    @property
    def encoder(self) -> bool:
        """Whether this is an encoder alone, which continues no prompt."""
        return self.model.startswith(("Bert", "Roberta", "XLMRoberta", "Longformer", "BigBirdFor"))

    @property
    def chooses_globals(self) -> bool:
        """Whether it is told which tokens see all."""
        return self.model.startswith("Longformer")

    @property
    def encoder_decoder(self) -> bool:
        """Whether a decoder reads what an encoder made of the input."""
        return self.model.startswith(("T5", "LongT5", "Marian", "Switch", "BigBirdPegasus"))


GPT2 = dict(n_positions=29, n_embd=24, n_layer=2, n_head=3)
NEOX = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37, max_position_embeddings=29,
)  # fmt: skip
FALCON = dict(hidden_size=30, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=29)
LLAMA = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=37,
    max_position_embeddings=29, rms_norm_eps=1e-5,
)  # fmt: skip
BERT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=37, max_position_embeddings=29,
    type_vocab_size=2,
)  # fmt: skip
BIGBIRD = BERT | dict(block_size=2, num_random_blocks=2, sep_token_id=2)
"""Rows of more than 18 tokens are sparse."""
NO_POOLER = dict(zero=r"bert\.pooler\.(weight|bias)", lengths=(23, 17))
"""Such rows, and a pooler that no output reads."""
PEGASUS = dict(
    d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=3, decoder_attention_heads=3,
    encoder_ffn_dim=37, decoder_ffn_dim=37, max_position_embeddings=29, block_size=2, num_random_blocks=2,
)  # fmt: skip
ROBERTA = BERT | dict(type_vocab_size=1, layer_norm_eps=1e-5)
T5 = dict(
    d_model=24, d_kv=5, d_ff=37, num_layers=3, num_decoder_layers=2, num_heads=3, relative_attention_num_buckets=8,
    relative_attention_max_distance=11,
)  # fmt: skip
DEEPSEEK = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=37, max_position_embeddings=29,
    first_k_dense_replace=1, moe_intermediate_size=11, n_shared_experts=2, kv_lora_rank=10, qk_nope_head_dim=6,
    qk_rope_head_dim=4, v_head_dim=7, n_group=3, topk_group=2, routed_scaling_factor=1.7,
)  # fmt: skip
DEEPSEEK_YARN = dict(
    rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=7, mscale=0.7, mscale_all_dim=0.9,
)  # fmt: skip
QWEN = LLAMA | dict(
    moe_intermediate_size=11, num_experts_per_tok=2, rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default",
    rope_theta=1e3),
)  # fmt: skip
LONG_T5 = {key: value for key, value in T5.items() if key != "num_layers"} | dict(num_layers=2, local_radius=2)
SWITCH = {key: value for key, value in T5.items() if key != "num_layers"} | dict(
    num_layers=4, num_decoder_layers=2, num_sparse_encoder_layers=2, num_sparse_decoder_layers=1, num_experts=5,
)  # fmt: skip
JAMBA = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=37,
    num_experts=5, attn_layer_period=2, attn_layer_offset=0, mamba_d_state=5, mamba_dt_rank=3,
    max_position_embeddings=29,
)  # fmt: skip
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=29)

SHALLOW = dict(num_hidden_layers=1)
"""Depth enough where another case of the family has more."""

CASES = {
    "gpt2": Case("GPT2LMHeadModel", GPT2, ("transformer.wpe.weight", "transformer.h.1.attn.c_attn.bias")),
    "gpt_neox": Case(
        "GPTNeoXForCausalLM", NEOX | dict(rope_parameters=dict(rope_type="default", rope_theta=1e4,
        partial_rotary_factor=0.5)), ("gpt_neox.layers.1.attention.query_key_value.bias",),
        dict(rope_parameters=None, rotary_pct=0.5, rotary_emb_base=10000),
    ),
    "gpt_neox_sequential": Case(
        "GPTNeoXForCausalLM", NEOX | SHALLOW | dict(use_parallel_residual=False, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=1.0)),
    ),
    "falcon_7b": Case("FalconForCausalLM", FALCON, ("transformer.h.1.self_attention.query_key_value.weight",)),
    "falcon_40b": Case(
        "FalconForCausalLM",
        FALCON | SHALLOW | dict(num_attention_heads=6, hidden_size=24, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "falcon_rw": Case(
        "FalconForCausalLM",
        FALCON | dict(alibi=True, bias=True, multi_query=False, parallel_attn=False),
        attention="sdpa",
    ),
    "llama": Case(
        "LlamaForCausalLM", LLAMA | dict(head_dim=8),
        ("model.layers.1.self_attn.k_proj.weight", "model.layers.0.input_layernorm.weight"),
    ),
    "llama_linear": Case(
        "LlamaForCausalLM",
        LLAMA | dict(num_key_value_heads=4, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                     rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=3.0)),
    ),
    "llama_yarn": Case(
        "LlamaForCausalLM",
        LLAMA | SHALLOW | dict(rope_parameters=dict(rope_type="yarn", rope_theta=100.0, factor=4.0,
                                                    original_max_position_embeddings=7)),
    ),
    "llama_llama3": Case(
        "LlamaForCausalLM",
        LLAMA | SHALLOW | dict(rope_parameters=LLAMA3 | dict(rope_type="llama3", rope_theta=500.0)),
        attributes=dict(rope_parameters=None, rope_theta=500.0, rope_scaling=LLAMA3 | dict(rope_type="llama3")),
    ),
    "mistral": Case("MistralForCausalLM", LLAMA | dict(sliding_window=4, num_key_value_heads=1)),
    "mixtral": Case(
        "MixtralForCausalLM", LLAMA | dict(num_local_experts=5, num_experts_per_tok=2),
        ("model.layers.1.block_sparse_moe.gate.weight",),
    ),
    "deepseek_v2": Case(
        "DeepseekV2ForCausalLM",
        DEEPSEEK | dict(q_lora_rank=None, n_routed_experts=6, num_experts_per_tok=3,
                        topk_method="group_limited_greedy", rope_parameters=DEEPSEEK_YARN),
    ),
    "deepseek_v3": Case(
        "DeepseekV3ForCausalLM",
        DEEPSEEK | dict(q_lora_rank=9, n_routed_experts=9, num_experts_per_tok=4, num_key_value_heads=3),
        ("model.layers.1.self_attn.kv_b_proj.weight", "model.layers.1.mlp.gate.weight"),
    ),
    "qwen2_moe": Case(
        "Qwen2MoeForCausalLM", QWEN | dict(num_experts=5, shared_expert_intermediate_size=13),
        ("model.layers.1.mlp.shared_expert_gate.weight",),
    ),
    "qwen3_moe": Case(
        "Qwen3MoeForCausalLM", QWEN | SHALLOW | dict(num_experts=5, head_dim=8, norm_topk_prob=True),
    ),
    "jamba": Case(
        "JambaForCausalLM", JAMBA,
        ("model.layers.1.mamba.b_layernorm.weight", "model.layers.1.feed_forward.router.weight"),
    ),
    "switch": Case(
        "SwitchTransformersForConditionalGeneration", SWITCH,
        ("encoder.block.1.layer.1.mlp.router.classifier.weight",),
    ),
    "bloom": Case(
        "BloomForCausalLM", dict(hidden_size=24, n_layer=2, n_head=4),
        ("transformer.word_embeddings_layernorm.weight",),
    ),
    "bloom_six_heads": Case("BloomForCausalLM", dict(hidden_size=30, n_layer=1, n_head=6)),
    "bert": Case("BertModel", BERT | SHALLOW),
    "bert_mlm": Case("BertForMaskedLM", BERT),
    "bert_pretraining": Case(
        "BertForPreTraining", BERT,
        ("bert.embeddings.token_type_embeddings.weight", "cls.predictions.transform.dense.weight"),
    ),
    "bert_sequence": Case("BertForSequenceClassification", BERT | SHALLOW | dict(num_labels=3)),
    "bert_tokens": Case("BertForTokenClassification", BERT | SHALLOW | dict(num_labels=5)),
    "bert_span": Case("BertForQuestionAnswering", BERT | SHALLOW),
    "roberta": Case("RobertaForMaskedLM", ROBERTA),
    "roberta_sequence": Case("RobertaForSequenceClassification", ROBERTA | SHALLOW | dict(num_labels=3)),
    "xlm_roberta": Case("XLMRobertaForMaskedLM", ROBERTA | SHALLOW),
    "longformer": Case(
        "LongformerForMaskedLM", ROBERTA | dict(attention_window=[4, 8]),
        ("longformer.encoder.layer.1.attention.self.key_global.weight",),
    ),
    "bigbird": Case(
        "BigBirdForPreTraining", BIGBIRD | dict(rescale_embeddings=True), ("bert.pooler.weight",), lengths=(23, 17),
    ),
    "bigbird_drawn": Case(
        "BigBirdForMaskedLM", BIGBIRD | dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        ("bert.encoder.layer.1.attention.self.key.weight",), training=True, **NO_POOLER,
    ),
    "bigbird_sequence": Case("BigBirdForSequenceClassification", BIGBIRD | SHALLOW | dict(num_labels=3), **NO_POOLER),
    "bigbird_full": Case(
        "BigBirdForTokenClassification",
        BIGBIRD | SHALLOW | dict(num_labels=5, attention_type="original_full", hidden_act="relu"), **NO_POOLER,
    ),
    "bigbird_pegasus": Case(
        "BigBirdPegasusForConditionalGeneration", PEGASUS | dict(use_bias=True),
        ("model.encoder.layers.1.self_attn.output.weight", "model.decoder.layers.0.encoder_attn.v_proj.bias"),
        zero="final_logits_bias", lengths=(23, 17),
    ),
    "bigbird_pegasus_drawn": Case(
        "BigBirdPegasusForConditionalGeneration", PEGASUS | dict(dropout=0.0, scale_embedding=False),
        zero="final_logits_bias", lengths=(23, 17), training=True,
    ),
    "t5": Case("T5ForConditionalGeneration", T5),
    "t5_gated": Case(
        "T5ForConditionalGeneration", T5 | dict(feed_forward_proj="gated-gelu"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
         "decoder.block.1.layer.1.EncDecAttention.k.weight"),
        dict(tie_word_embeddings=False, scale_decoder_outputs=None), {"lm_head.weight": (VOCAB, 24)},
    ),
    "long_t5_local": Case(
        "LongT5ForConditionalGeneration", LONG_T5,
        ("encoder.block.0.layer.0.LocalSelfAttention.relative_attention_bias.weight",),
    ),
    "long_t5": Case(
        "LongT5ForConditionalGeneration",
        LONG_T5 | dict(encoder_attention_type="transient-global", global_block_size=4, feed_forward_proj="gated-gelu"),
        ("encoder.block.0.layer.0.TransientGlobalSelfAttention.global_relative_attention_bias.weight",
         "encoder.block.1.layer.0.TransientGlobalSelfAttention.global_input_layer_norm.weight"),
        dict(tie_word_embeddings=False, scale_decoder_outputs=None), {"lm_head.weight": (VOCAB, 24)},
    ),
    "mamba": Case(
        "MambaForCausalLM", dict(hidden_size=24, state_size=5, num_hidden_layers=2, time_step_rank=3),
        ("backbone.layers.1.mixer.A_log", "backbone.layers.1.mixer.dt_proj.bias"),
    ),
    "falcon_mamba": Case(
        "FalconMambaForCausalLM",
        dict(hidden_size=24, state_size=5, num_hidden_layers=1, time_step_rank=3, mixer_rms_eps=0.01,
             tie_word_embeddings=False),
        ("backbone.layers.0.mixer.x_proj.weight",),
        dict(expand=16, intermediate_size=48),
    ),
    "mamba2": Case(
        "Mamba2ForCausalLM",
        dict(hidden_size=24, state_size=5, num_hidden_layers=2, num_heads=6, head_dim=8, n_groups=2, chunk_size=4),
        ("backbone.layers.1.mixer.A_log", "backbone.layers.1.mixer.conv1d.weight"),
    ),
    "rwkv": Case(
        "RwkvForCausalLM", dict(hidden_size=24, num_hidden_layers=2, intermediate_size=37, use_cache=False),
        ("rwkv.blocks.1.attention.time_decay", "rwkv.blocks.0.feed_forward.time_mix_key"),
    ),
    "bamba": Case(
        "BambaForCausalLM",
        dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, intermediate_size=37,
             attn_layer_indices=[1], mamba_n_heads=6, mamba_d_head=8, mamba_d_state=5, mamba_n_groups=2,
             mamba_chunk_size=4, attention_bias=True, mlp_bias=True, max_position_embeddings=29),
    ),
    "zamba2": Case(
        "Zamba2ForCausalLM",
        dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=37, mamba_d_state=5,
             n_mamba_heads=6, mamba_ngroups=2, chunk_size=4, adapter_rank=5, use_mem_rope=True, rms_norm_eps=0.1,
             use_shared_attention_adapter=True, layers_block_type=["mamba", "hybrid", "hybrid"]),
        ("model.layers.1.shared_transformer.self_attn.linear_k_adapter_list.1.0.weight",
         "model.layers.1.shared_transformer.input_layernorm.weight", "model.layers.2.mamba_decoder.mamba.A_log"),
    ),
    "griffin": Case(
        "RecurrentGemmaForCausalLM",
        dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, intermediate_size=74,
             lru_width=24, conv1d_width=3, attention_window_size=4, attention_bias=True, logits_soft_cap=5.0,
             use_cache=False, block_types=("recurrent", "attention")),
        ("model.layers.0.temporal_block.rg_lru.recurrent_param", "model.layers.1.temporal_pre_norm.weight"),
    ),
}  # fmt: skip
"""Of the families that have published weights."""

COMPOSED = {
    "palm_cohere": Case(
        "CohereForCausalLM",
        dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=256,
             intermediate_size=96, max_position_embeddings=29, layer_norm_eps=1e-6, logit_scale=24**-0.5,
             rope_parameters=dict(rope_type="default", rope_theta=1e4)),
        ("model.layers.1.input_layernorm.weight",),
    ),
    "transformer_marian": Case(
        "MarianMTModel",
        dict(d_model=24, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=37, decoder_ffn_dim=37,
             encoder_attention_heads=3, decoder_attention_heads=3, activation_function="relu", scale_embedding=True,
             max_position_embeddings=29, forced_eos_token_id=None),
        ("model.decoder.layers.1.encoder_attn.q_proj.weight",), zero=r".*_proj\.bias|final_logits_bias",
    ),
    "llama_dynamic": Case(
        "LlamaForCausalLM",
        LLAMA | SHALLOW | dict(max_position_embeddings=5,
                     rope_parameters=dict(rope_type="dynamic", rope_theta=100.0, factor=2.0)),
    ),
    "qwen3": Case("Qwen3ForCausalLM", LLAMA | dict(head_dim=8, rms_norm_eps=1e-6)),
    "gemma2": Case(
        "Gemma2ForCausalLM",
        dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             intermediate_size=37, max_position_embeddings=29, query_pre_attn_scalar=11, sliding_window=4,
             attn_logit_softcapping=1.5, final_logit_softcapping=2.5),
    ),
}  # fmt: skip
"""Peers of compositions of ours that have no published weights: PaLM, the 2017 Transformer, NTK-aware rotation, QK
norm, sandwich norms with soft caps."""

ALL = CASES | COMPOSED


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values of a published tensor, from its name alone: scales around 1, the rest around 0."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1 and name.endswith("weight"):
        return np.float32(1 + 0.2 * values)
    return np.float32(0.3 * values)


def ids(use: str, lengths: tuple[int, ...], low: int = SPECIAL, high: int = VOCAB) -> list[np.ndarray]:
    """Random ids, a row of each length; `use` is the seed."""
    rng = np.random.default_rng(zlib.crc32(use.encode()))
    return [rng.integers(low, high, length) for length in lengths]


def padded(rows: list[np.ndarray], fill: int) -> np.ndarray:
    """[b t] the rows, filled up on the right."""
    out = np.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def inputs(case: Case, use: str, lengths: tuple[int, ...]) -> dict[str, list[np.ndarray]]:
    """What a model reads, row by row, by transformers' names: ids; the types of BERT's;
    Longformer's global tokens; the targets of T5's decoder.

    Args:
      case: the model.
      use: the seed.
      lengths: of the rows.
    """
    read = {"input_ids": ids(use, lengths)}
    if case.encoder:
        read["token_type_ids"] = ids(f"{use} types", lengths, 0, case.config["type_vocab_size"])
    if case.chooses_globals:
        read["global_attention_mask"] = ids(f"{use} globals", lengths, 0, 2)
    if case.encoder_decoder:
        read["labels"] = ids(f"{use} targets", tuple(length // 2 + 1 for length in lengths))
    return read


def labels(case: Case) -> dict[str, np.ndarray]:
    """What the loss of the padded batch asks for, by transformers' names; -100 where nothing is asked."""
    rows = inputs(case, "padded", case.lengths)
    if not case.encoder:
        return {"labels": padded(rows.get("labels", rows["input_ids"]), -100)}
    asked = padded([np.where(row % 3 == 0, row // 2, -100) for row in rows["input_ids"]], -100)
    return {
        "Model": {},
        "ForMaskedLM": {"labels": asked},
        "ForPreTraining": {"labels": asked, "next_sentence_label": np.array([1, 0])},
        "ForSequenceClassification": {"labels": np.array([2, 0])},
        "ForTokenClassification": {"labels": np.where(asked < 0, asked, asked % 5)},
        "ForQuestionAnswering": {"start_positions": np.array([3, 1]), "end_positions": np.array([8, 6])},
    }[re.sub("^(XLM)?(Bert|Roberta|Longformer|BigBird)", "", case.model)]


def digest(name: str, value: np.ndarray) -> tuple[float, float]:
    """A tensor's norm, and its inner product with a random one: a value that is wrong anywhere has another."""
    direction = weights(f"{name} direction", (*value.shape, 1))[..., 0]
    return float(np.linalg.norm(value)), float(np.vdot(direction.astype(np.float64), value))
