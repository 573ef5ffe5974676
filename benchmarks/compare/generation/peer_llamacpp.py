# SPDX-License-Identifier: Apache-2.0
"""peer_llamacpp.py FOLDER MODEL WORKLOAD THREADS DTYPE: llama.cpp's server core inside this process, through xllamacpp
(DTYPE f32 or q8_0), one JSON line. All requests come at once; the server refills its slots."""

import http.client
import json
import os
import pathlib
import resource
import sys
import threading
import time
import urllib.parse

import xllamacpp

folder, name, workload = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
work = json.loads((folder / "workloads.json").read_text())[workload]
lengths = work["new_tokens"] or [1] * len(work["prompts"])
params = xllamacpp.CommonParams()
params.model.path = str(folder / f"{name}-{sys.argv[5]}.gguf")
params.n_parallel = work["batch"]
longest = max(len(p) + n for p, n in zip(work["prompts"], lengths, strict=True))
params.kv_unified = False  # one stream a slot is the faster of the two
params.n_ctx = work["batch"] * (longest + 64)
params.n_batch, params.n_ubatch = 2048, 512
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[4])
params.warmup, params.cont_batching, params.port, params.verbosity, params.cache_ram_mib = False, True, 0, -1, 0
params.n_threads_http = len(lengths) + 16
server = xllamacpp.Server(params)
address = urllib.parse.urlparse(server.listening_address)
greedy = workload == "check"


def ask(prompt, count):
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=900)
    sampling = dict(temperature=1.0, top_k=1 if greedy else 0, samplers=["top_k"] if greedy else ["temperature"])
    connection.request("POST", "/completion", json.dumps(dict(
        prompt=prompt, n_predict=count, top_p=1.0, min_p=0.0, ignore_eos=True, cache_prompt=not work["new_tokens"],
        return_tokens=True, **sampling)), {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())["tokens"]


found = [None] * len(lengths)


def go(i):
    found[i] = ask(work["prompts"][i], lengths[i])


ask(list(range(300, 316)), 3)
threads = [threading.Thread(target=go, args=(i,)) for i in range(len(lengths))]
begin = time.perf_counter()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
seconds = time.perf_counter() - begin
print(json.dumps({"system": "llama.cpp", "version": "xllamacpp " + xllamacpp.__version__, "seconds": seconds,
                  "lengths": list(map(len, found)), "ids": found if greedy else [],
                  "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}), flush=True)
os._exit(0)  # the server's threads do not end
