"""Training steps in transformers (float32, eager, its fused attention, fused AdamW): the other side of `throughput.py`.

Started by it with the peers' Python, a folder that holds the model, and the settings as JSON. Reads a line of JSON,
answers a line: `{"steps": [first, end]}` trains on the batches of these numbers, `{"products": [[m, k, n], ...]}` times
matrix products.
"""

import json
import os
import platform
import resource
import sys
import time

import numpy as np
import torch
import transformers

REPEATS = 15
folder, settings = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(os.cpu_count())
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
model.train()
tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
groups = {True: [], False: []}
for weight in model.parameters():
    groups[weight.ndim > 1 and id(weight) not in tables].append(weight)
decays = {True: settings["weight_decay"], False: 0.0}
optimizer = torch.optim.AdamW(
    [{"params": weights, "weight_decay": decays[decayed]} for decayed, weights in groups.items()],
    lr=settings["learning_rate"], betas=(settings["b1"], settings["b2"]), eps=settings["epsilon"], fused=True,
)  # fmt: skip


def step(number: int) -> dict:
    """One optimizer step: its seconds and its loss."""
    shape = settings["batch"], settings["length"] + 1
    rows = torch.from_numpy(np.random.default_rng(number).integers(settings["vocab"], size=shape))
    start = time.perf_counter()
    logits = model(rows[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    value = loss.item()
    return {"seconds": time.perf_counter() - start, "loss": value}


def product(m: int, k: int, n: int) -> float:
    """The least seconds of a product of [m k] and [k n]."""
    left, right, seconds = torch.ones(m, k), torch.ones(k, n), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return min(seconds)


versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
print(json.dumps(versions | {"parameters": sum(weight.numel() for weight in model.parameters())}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "steps" in asked:
        answer = [step(number) for number in range(*asked["steps"])]
    elif "products" in asked:
        answer = [product(*sizes) for sizes in asked["products"]]
    else:
        answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    print(json.dumps(answer), flush=True)
