# SPDX-License-Identifier: Apache-2.0
"""peer_transformers.py FOLDER MODEL WORKLOAD THREADS DTYPE DEVICE: transformers on FOLDER/scoring.json, one JSON line.

Rows of one length in batches of 8; the output matrix is applied to the response's rows only, which its trainers do not
do. Attention is "eager" for Gemma-2, whose soft cap transformers' default drops; else the default.
"""

import json
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
from transformers import AutoConfig, AutoModelForCausalLM

BATCH = 8
folder, name, workload = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
transformers.logging.set_verbosity_error()
torch.set_num_threads(int(sys.argv[4]))
rows = json.loads((folder / "scoring.json").read_text())[workload]
attention = {"attn_implementation": "eager"} if AutoConfig.from_pretrained(folder / name).model_type == "gemma2" else {}
model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=getattr(torch, sys.argv[5]), **attention).to(sys.argv[6]).eval()


def score(some):
    responses = len(some[0][1])
    ids = torch.tensor([prompt + response for prompt, response in some], device=model.device)
    logits = model(ids[:, :-1], logits_to_keep=responses, use_cache=False).logits.float()
    logps = logits.log_softmax(-1).gather(2, ids[:, -responses:, None]).squeeze(2)
    return logps.sum(1).tolist()


with torch.inference_mode():
    score(rows[:1])
    begin = time.perf_counter()
    sums = [s for i in range(0, len(rows), BATCH) for s in score(rows[i:i + BATCH])]
    seconds = time.perf_counter() - begin
print(json.dumps({"system": "transformers", "version": transformers.__version__, "seconds": seconds, "sums": sums,
                  "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
