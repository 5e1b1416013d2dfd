"""SmolLM2-135M in transformers (float32, its cache, scaled-dot-product attention): the other side of `smollm2.py`.

Started by it with the peers' Python and the GGUF file; reads `[prompt, count]` a line, answers with seconds and ids.
"""

import json
import os
import pathlib
import platform
import resource
import sys
import time

import torch
import transformers

torch.set_num_threads(os.cpu_count())
transformers.logging.set_verbosity_error()
file = pathlib.Path(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="sdpa"
).eval()
versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
print(json.dumps(versions), flush=True)
for line in sys.stdin:
    prompt, count = json.loads(line)
    start = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    print(json.dumps({"seconds": seconds, "ids": out[0, len(prompt) :].tolist(), "peak_mib": peak}), flush=True)
