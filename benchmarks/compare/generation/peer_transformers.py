# SPDX-License-Identifier: Apache-2.0
"""peer_transformers.py FOLDER MODEL WORKLOAD THREADS DTYPE DEVICE: Hugging Face transformers' generate, one JSON line.

Static batches, longest output first come as it stands; a finished sequence leaves its slot idle, as generate does.
"""

import json
import logging
import os
import pathlib
import resource
import sys
import time
import warnings

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

folder, name, workload = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)
torch.set_num_threads(int(sys.argv[4]))
work = json.loads((folder / "workloads.json").read_text())[workload]
model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=getattr(torch, sys.argv[5])).to(sys.argv[6]).eval()
device = model.device
greedy = workload == "check"
model.generation_config = GenerationConfig(do_sample=not greedy, **({} if greedy else dict(top_k=0, top_p=1.0, temperature=1.0)),
                                           bos_token_id=1, eos_token_id=None, pad_token_id=0)


class Lengths(StoppingCriteria):
    def __init__(self, start, lengths):
        self.ends = torch.tensor([start + n for n in lengths], device=device)

    def __call__(self, ids, scores, **kwargs):
        return ids.shape[1] >= self.ends


def generate(prompts, lengths):
    width = max(map(len, prompts))
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt):], mask[i, width - len(prompt):] = torch.tensor(prompt), 1
    out = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=max(lengths),
                         stopping_criteria=StoppingCriteriaList([Lengths(width, lengths)]))
    return [row[width:width + n].tolist() for row, n in zip(out, lengths, strict=True)]


def run(prompts, lengths):
    found = []
    with torch.inference_mode():
        for i in range(0, len(prompts), work["batch"]):
            some = prompts[i:i + work["batch"]]
            if lengths:
                found += generate(some, lengths[i:i + work["batch"]])
            else:
                logits = model(torch.tensor(some, device=device), logits_to_keep=1, use_cache=False).logits[:, -1]
                found += [[int(row.argmax())] for row in logits.float()]
    return found


generate([work["prompts"][0][:16]] * 2, [3, 3])
if device.type == "cuda":  # its memory and kernels are had on first use: once as a whole
    run(work["prompts"], work["new_tokens"])
begin = time.perf_counter()
found = run(work["prompts"], work["new_tokens"])
seconds = time.perf_counter() - begin
print(json.dumps({"system": "transformers", "version": transformers.__version__, "seconds": seconds, "lengths": list(map(len, found)),
                  "ids": found if greedy else [], "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
