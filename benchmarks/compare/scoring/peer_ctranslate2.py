# SPDX-License-Identifier: Apache-2.0
"""peer_ctranslate2.py FOLDER MODEL WORKLOAD THREADS DTYPE: CTranslate2's score_batch on FOLDER/scoring.json, one JSON line.

It scores every token of prompt and response; the response's are summed.
"""

import json
import os
import pathlib
import resource
import sys
import time

import ctranslate2

folder, name, workload = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
rows = json.loads((folder / "scoring.json").read_text())[workload]
generator = ctranslate2.Generator(str(folder / f"{name}-ct2"), device="cpu", compute_type=sys.argv[5], inter_threads=1,
                                  intra_threads=int(sys.argv[4]))
words = lambda ids: [f"<{i}>" for i in ids]


def score(some):
    results = generator.score_batch([words(prompt + response) for prompt, response in some], max_batch_size=8)
    return [sum(result.log_probs[-len(response):]) for result, (_, response) in zip(results, some, strict=True)]


score(rows[:1])
begin = time.perf_counter()
sums = score(rows)
seconds = time.perf_counter() - begin
print(json.dumps({"system": "ctranslate2", "version": ctranslate2.__version__, "seconds": seconds, "sums": sums,
                  "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}), flush=True)
os._exit(0)  # its threads abort the process now and then when Python takes it down
