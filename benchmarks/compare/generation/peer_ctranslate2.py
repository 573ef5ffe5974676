# SPDX-License-Identifier: Apache-2.0
"""peer_ctranslate2.py FOLDER MODEL WORKLOAD THREADS DTYPE: CTranslate2's Generator (DTYPE float32 or int8), one JSON line.

Static batches (it has no refill); a finished row leaves its batch through the callback. Its Gemma-2 has no soft caps.
"""

import json
import os
import pathlib
import resource
import sys
import time

import ctranslate2

folder, name, workload = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
work = json.loads((folder / "workloads.json").read_text())[workload]
generator = ctranslate2.Generator(str(folder / f"{name}-ct2"), device="cpu", compute_type=sys.argv[5], inter_threads=1,
                                  intra_threads=int(sys.argv[4]))
greedy = workload == "check"
words = lambda ids: [f"<{i}>" for i in ids]
sampling = dict(sampling_topk=1 if greedy else 0, sampling_temperature=1.0, include_prompt_in_result=False, end_token=[])


def generate(prompts, lengths):
    seen = [0] * len(prompts)

    def last(step):  # the callback also sees the tokens of longer prompts
        seen[step.batch_id] += 1
        return seen[step.batch_id] >= lengths[step.batch_id]

    longest = max(lengths)
    results = generator.generate_batch([words(p) for p in prompts], max_length=longest + 1, min_length=longest + 1,
                                       callback=last, **sampling)
    return [result.sequences_ids[0][:n] for result, n in zip(results, lengths, strict=True)]


def run(prompts, lengths):
    found = []
    if not lengths:
        shared = words(prompts[0][:work["shared"]])
        results = generator.generate_batch([words(p[work["shared"]:]) for p in prompts], max_length=1, static_prompt=shared,
                                           cache_static_prompt=True, return_logits_vocab=True, max_batch_size=work["batch"],
                                           **dict(sampling, sampling_topk=1))
        return [list(result.sequences_ids[0]) for result in results]
    for i in range(0, len(prompts), work["batch"]):
        found += generate(prompts[i:i + work["batch"]], lengths[i:i + work["batch"]])
    return found


generate([work["prompts"][0][:16]] * 2, [3, 3])
begin = time.perf_counter()
found = run(work["prompts"], work["new_tokens"])
seconds = time.perf_counter() - begin
print(json.dumps({"system": "ctranslate2", "version": ctranslate2.__version__, "seconds": seconds, "lengths": list(map(len, found)),
                  "ids": found if greedy else [], "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}), flush=True)
os._exit(0)  # its threads abort the process now and then when Python takes it down
