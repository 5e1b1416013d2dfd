"""What every preset has: the canonical paths of its parameters, its layers, and how many values.

A path that is renamed breaks checkpoints, imports and everything that selects by path: change one here on purpose only.
"""

BIASED_ATTENTION = """attention/query attention/query_bias attention/key attention/key_bias attention/value
    attention/value_bias attention/out attention/out_bias"""
ATTENTION = "attention/query attention/key attention/value attention/out"
BIASED_MLP = "mlp/up mlp/up_bias mlp/down mlp/down_bias"
LAYER_NORMS = "attention_norm/scale attention_norm/bias mlp_norm/scale mlp_norm/bias"
SWIGLU = "gated_mlp/gate gated_mlp/up gated_mlp/down"
NORM = "norm/scale norm/bias"
UNTIED = "embedding/table embedding/output"

MEGATRON_LAYER = f"{LAYER_NORMS} {BIASED_ATTENTION} {BIASED_MLP}"
MAMBA = """mamba_norm/scale mamba/in mamba/gate mamba/conv mamba/conv_bias mamba/dt_down mamba/dt_up mamba/dt_bias
    mamba/B mamba/C mamba/A_log mamba/D mamba/out"""
LLAMA_LAYER = f"attention_norm/scale {ATTENTION} gated_mlp_norm/scale {SWIGLU}"

PATHS = {
    "gpt": (f"embedding/table position/table {NORM}", MEGATRON_LAYER),
    "gpt_neox": (f"{UNTIED} {NORM}", MEGATRON_LAYER),
    "falcon_7b": (f"embedding/table {NORM}", f"{NORM} {ATTENTION} mlp/up mlp/down"),
    "falcon_40b": (f"embedding/table {NORM}", f"{LAYER_NORMS} {ATTENTION} mlp/up mlp/down"),
    "falcon2": (f"{UNTIED} {NORM}", f"{NORM} {ATTENTION} mlp/up mlp/down"),
    "falcon_rw": (f"embedding/table {NORM}", MEGATRON_LAYER),
    "palm": ("embedding/table norm/scale", f"norm/scale {ATTENTION} {SWIGLU}"),
    "llama": (f"{UNTIED} norm/scale", LLAMA_LAYER),
    "llama_tied": ("embedding/table norm/scale", LLAMA_LAYER),
    "mixtral": (
        f"{UNTIED} norm/scale",
        f"attention_norm/scale {ATTENTION} moe_norm/scale moe/router moe/gate moe/up moe/down",
    ),
    "bloom": (f"embedding/table embedding_norm/scale embedding_norm/bias {NORM}", MEGATRON_LAYER),
    "mamba_lm": ("embedding/table norm/scale", MAMBA),
    "falcon_mamba": (f"{UNTIED} norm/scale", MAMBA),
    "rwkv": (
        f"{UNTIED} embedding_norm/scale embedding_norm/bias {NORM}",
        """rwkv4_norm/scale rwkv4_norm/bias channel_mix_norm/scale channel_mix_norm/bias rwkv4/mix_key rwkv4/mix_value
        rwkv4/mix_receptance rwkv4/key rwkv4/value rwkv4/receptance rwkv4/decay rwkv4/bonus rwkv4/out
        channel_mix/mix_key channel_mix/mix_receptance channel_mix/key channel_mix/receptance channel_mix/value""",
    ),
    "mamba2_lm": (
        "embedding/table norm/scale",
        """mamba2_norm/scale mamba2/gate mamba2/in mamba2/B mamba2/C mamba2/dt mamba2/conv mamba2/conv_B mamba2/conv_C
        mamba2/conv_bias mamba2/conv_bias_B mamba2/conv_bias_C mamba2/dt_bias mamba2/A_log mamba2/D mamba2/norm
        mamba2/out""",
    ),
    "sparse_transformer": (
        f"{UNTIED} position/axis_0 position/axis_1 {NORM}",
        f"{LAYER_NORMS} {ATTENTION} {BIASED_MLP}",
    ),
    "sparse_transformer_image": (
        f"{UNTIED} position/axis_0 position/axis_1 position/axis_2 {NORM}",
        f"{LAYER_NORMS} {ATTENTION} {BIASED_MLP}",
    ),
    "hyena_lm": (
        f"embedding/table {NORM}",
        f"""hyena_norm/scale hyena_norm/bias mlp_norm/scale mlp_norm/bias {BIASED_MLP} hyena/in hyena/in_bias hyena/conv
        hyena/conv_bias hyena/skip hyena/out hyena/out_bias hyena/filter/frequency hyena/filter/product_0
        hyena/filter/bias_0 hyena/filter/product_1 hyena/filter/bias_1 hyena/filter/product_2 hyena/filter/bias_2
        hyena/filter/out""",
    ),
}
"""Paths outside the layers, and those of one layer behind `layers/<number>/`, by kind."""

PRESETS = {
    "gpt": {
        "gpt2_small": ("gpt", 12, 124_439_808),
        "gpt2_medium": ("gpt", 24, 354_823_168),
        "gpt2_large": ("gpt", 36, 774_030_080),
        "gpt2_xl": ("gpt", 48, 1_557_611_200),
        # Table D.1 of the GPT-3 paper prints 125M, 356M, 760M, 1,320M, 2,650M, 6,660M, 12,850M, 174,600M.
        "gpt3_small": ("gpt", 12, 125_226_240),
        "gpt3_medium": ("gpt", 24, 355_871_744),
        "gpt3_large": ("gpt", 24, 760_300_032),
        "gpt3_xl": ("gpt", 24, 1_315_723_264),
        "gpt3_2_7b": ("gpt", 32, 2_651_553_280),
        "gpt3_6_7b": ("gpt", 32, 6_658_404_352),
        "gpt3_13b": ("gpt", 40, 12_853_386_240),
        "gpt3_175b": ("gpt", 96, 174_604_259_328),
    },
    "gpt_neox": {
        "gpt_neox_20b": ("gpt_neox", 44, 20_554_567_680),  # printed in sec. 2.1
        # Table 1 of Pythia prints these without the two tables: 18,915,328 for 70m and so on.
        "pythia_70m": ("gpt_neox", 6, 18_915_328 + 2 * 50304 * 512),
        "pythia_160m": ("gpt_neox", 12, 85_056_000 + 2 * 50304 * 768),
        "pythia_410m": ("gpt_neox", 24, 302_311_424 + 2 * 50304 * 1024),
        "pythia_1b": ("gpt_neox", 16, 805_736_448 + 2 * 50304 * 2048),
        "pythia_1_4b": ("gpt_neox", 24, 1_208_602_624 + 2 * 50304 * 2048),
        "pythia_2_8b": ("gpt_neox", 32, 2_517_652_480 + 2 * 50304 * 2560),
        "pythia_6_9b": ("gpt_neox", 32, 6_444_163_072 + 2 * 50432 * 4096),
        "pythia_12b": ("gpt_neox", 36, 11_327_027_200 + 2 * 50688 * 5120),
    },
    "falcon": {
        "falcon_7b": ("falcon_7b", 32, 6_921_720_704),
        "falcon_40b": ("falcon_40b", 60, 41_303_293_952),
        "falcon_180b": ("falcon_40b", 80, 178_557_088_768),
        "falcon2_11b": ("falcon2", 60, 11_102_822_400),
        "falcon_rw_1b": ("falcon_rw", 24, 1_311_625_216),
    },
    "palm": {  # table 1 prints 8.63B, 62.50B, 540.35B
        "palm_8b": ("palm", 32, 8_632_012_800),
        "palm_62b": ("palm", 64, 62_495_662_080),
        "palm_540b": ("palm", 118, 540_356_474_880),
    },
    "llama": {
        "llama_7b": ("llama", 32, 6_738_415_616),
        "llama_13b": ("llama", 40, 13_015_864_320),
        "llama_33b": ("llama", 60, 32_528_943_616),
        "llama_65b": ("llama", 80, 65_285_660_672),
        "llama2_7b": ("llama", 32, 6_738_415_616),
        "llama2_13b": ("llama", 40, 13_015_864_320),
        "llama2_70b": ("llama", 80, 68_976_648_192),
        "llama3_8b": ("llama", 32, 8_030_261_248),
        "llama3_70b": ("llama", 80, 70_553_706_496),
        "llama3_1_8b": ("llama", 32, 8_030_261_248),
        "llama3_1_70b": ("llama", 80, 70_553_706_496),
        "llama3_1_405b": ("llama", 126, 405_853_388_800),
        "llama3_2_1b": ("llama_tied", 16, 1_235_814_400),
        "llama3_2_3b": ("llama_tied", 28, 3_212_749_824),
        "tinyllama_1_1b": ("llama", 22, 1_100_048_384),
        "smollm2_135m": ("llama_tied", 30, 134_515_008),
    },
    "mistral": {
        "mistral_7b": ("llama", 32, 7_241_732_096),
        "mistral_7b_v3": ("llama", 32, 7_248_023_552),
    },
    "mixtral": {
        "mixtral_8x7b": ("mixtral", 32, 46_702_792_704),
        "mixtral_8x22b": ("mixtral", 56, 140_630_071_296),
    },
    "bloom": {
        "bloom_560m": ("bloom", 24, 559_214_592),
        "bloom_1_1b": ("bloom", 24, 1_065_314_304),
        "bloom_1_7b": ("bloom", 24, 1_722_408_960),
        "bloom_3b": ("bloom", 30, 3_002_557_440),
        "bloom_7_1b": ("bloom", 30, 7_069_016_064),
        "bloom_176b": ("bloom", 70, 176_247_271_424),
    },
    "mamba_lm": {
        "mamba_130m": ("mamba_lm", 24, 129_135_360),
        "mamba_370m": ("mamba_lm", 48, 371_516_416),
        "mamba_790m": ("mamba_lm", 48, 793_204_224),
        "mamba_1_4b": ("mamba_lm", 48, 1_372_178_432),
        "mamba_2_8b": ("mamba_lm", 64, 2_768_345_600),
        "falcon_mamba_7b": ("falcon_mamba", 64, 7_272_665_088),  # its release prints 7.27B
    },
    "rwkv": {  # table 2 prints these
        "rwkv4_169m": ("rwkv", 12, 169_342_464),
        "rwkv4_430m": ("rwkv", 24, 430_397_440),
        "rwkv4_1_5b": ("rwkv", 24, 1_515_106_304),
        "rwkv4_3b": ("rwkv", 32, 2_984_627_200),
        "rwkv4_7b": ("rwkv", 32, 7_392_649_216),
        "rwkv4_14b": ("rwkv", 40, 14_148_597_760),
    },
    "mamba2_lm": {
        "mamba2_130m": ("mamba2_lm", 24, 128_989_632),
        "mamba2_370m": ("mamba2_lm", 48, 368_346_624),
        "mamba2_780m": ("mamba2_lm", 48, 780_161_280),
        "mamba2_1_3b": ("mamba2_lm", 48, 1_343_757_312),
        "mamba2_2_7b": ("mamba2_lm", 64, 2_702_599_680),
    },
    "sparse_transformer": {  # sec. 7 prints 95M and 152M
        "sparse_transformer_enwik8": ("sparse_transformer", 30, 94_887_936),
        "sparse_transformer_imagenet64": ("sparse_transformer_image", 48, 151_546_368),
    },
    "hyena_lm": {  # table A.4 calls them 125M, 125M-slim, 153M, 355M, 1.3B
        "hyena_125m": ("hyena_lm", 12, 124_495_104),
        "hyena_125m_slim": ("hyena_lm", 18, 124_945_536),
        "hyena_153m": ("hyena_lm", 18, 152_483_904),
        "hyena_355m": ("hyena_lm", 36, 357_086_464),
        "hyena_1_3b": ("hyena_lm", 36, 1_317_772_544),
    },
}
"""(kind of paths, layers, parameters) of each preset of the decoder families; sums as the papers print them."""


def paths(kind: str, layers: int) -> list[str]:
    """All canonical paths, sorted."""
    around, layer = (text.split() for text in PATHS[kind])
    return sorted([*around, *(f"layers/{i}/{path}" for i in range(layers) for path in layer)])
