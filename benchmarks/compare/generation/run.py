# SPDX-License-Identifier: Apache-2.0
"""Generation and judging with libsao's Engine beside transformers, CTranslate2 and llama.cpp on the CPU.

./dev bench compare generation [--models M,..] [--workloads W1,..] [--systems S,..] [--repeats N] [--threads N]
    [--dtype float32] [--device cpu]

Same random weights, same prompts, the whole vocabulary sampled at temperature 1. First each system continues 16 prompts
greedily: how many of the tokens are libsao's is printed, and a system that computes something else ends the run. Then the
systems take turns, one process a measurement, loading and warming up not counted. Workloads: make.py. W3's rate counts
all prompt tokens, those included that a system shares. The limits are what the machine's measured GEMM peak and reading
speed allow (limit_of). The Python that runs this must import torch, transformers, ctranslate2, xllamacpp and gguf; on a
GPU the first two.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}  # OpenMP's default for all
SYSTEMS = {
    "libsao": (["libsao_generate"], "float32"),
    "transformers": ([sys.executable, HERE / "peer_transformers.py"], "float32"),
    "ctranslate2": ([sys.executable, HERE / "peer_ctranslate2.py"], "float32"),
    "llama.cpp": ([sys.executable, HERE / "peer_llamacpp.py"], "f32"),
    "libsao-int8": (["libsao_generate"], "int8"),
    "ctranslate2-int8": ([sys.executable, HERE / "peer_ctranslate2.py"], "int8"),
    "llama.cpp-q8_0": ([sys.executable, HERE / "peer_llamacpp.py"], "q8_0"),
}


def call(command: list) -> dict:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT)
    if result.returncode != 0 or not result.stdout.strip():
        sys.exit(f"{' '.join(str(part) for part in command)} failed ({result.returncode}):\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def weights_of(config: dict) -> tuple[int, int]:
    """Elements of the layers' matrices and of the output matrix."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads = 2 * config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    return config["num_hidden_layers"] * hidden * (heads * head + 3 * inner), config["vocab_size"] * hidden


def limit_of(work: dict, config: dict, machine: dict, dtype: str, attention: bool) -> float:
    """Tokens a second: linear layers, and with `attention` its products with the keys and values that a token sees, at
    the GEMM peak; prompts' repeated and shared parts once. Where a batch is as small as 1, or on a GPU, decoding reads
    weights and cache at the memory's speed instead."""
    body, head = weights_of(config)
    new, size = sum(work["new_tokens"]), 4 if dtype == "float32" else 2
    distinct = {tuple(p) for p in work["prompts"]}
    repeated, shared = len(distinct) - 1, work.get("shared", 0)
    read = sum(map(len, distinct)) - repeated * shared
    seen = lambda tokens, before=0: tokens * before + tokens * (tokens + 1) / 2  # pairs of a token and one it sees
    in_prompts = sum(seen(len(p)) for p in distinct) - repeated * seen(shared)
    in_answers = sum(seen(n, len(p)) for p, n in zip(work["prompts"], work["new_tokens"] or [0] * len(work["prompts"]), strict=True))
    of_pair = 2 * config["num_hidden_layers"] * config["num_attention_heads"] * config["head_dim"] if attention else 0
    at_peak = lambda tokens, logits, pairs: 2 * (tokens * body + logits * head + pairs * of_pair) / (machine["gemm_gflops"] * 1e9)
    if not new:
        return sum(map(len, work["prompts"])) / at_peak(read, len(distinct), in_prompts)
    if work["batch"] != 1 and size == 4:
        return new / at_peak(read + new, new, in_prompts + in_answers)
    cached = sum((len(p) + n / 2) * n for p, n in zip(work["prompts"], work["new_tokens"], strict=True))
    cached *= 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    steps = max(work["new_tokens"]) * max(1, len(work["prompts"]) // work["batch"])
    return new / (at_peak(read, 0, in_prompts) + size * (steps * (body + head) + cached) / (machine["read_gbs"] * 1e9))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="g2-100m,l3-300m")
    parser.add_argument("--workloads", default="W1,W2,W3,W4")
    parser.add_argument("--systems", default="libsao,transformers,ctranslate2,llama.cpp")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", help="of libsao and transformers")
    parser.add_argument("--device", default="cpu", help="of libsao and transformers")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build" / "bin")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "compare-generation")
    options = parser.parse_args()
    systems = options.systems.split(",")
    machine = call([options.programs / "libsao_generate", "limits", "-", "-", options.threads, options.dtype, options.device])
    print(f"GEMM peak {machine['gemm_gflops']} GFLOP/s, reading {machine['read_gbs']} GB/s, {options.threads} threads, "
          f"{options.repeats} processes each in turn; median (least to most) tokens a second, peak MiB\n")
    for model in options.models.split(","):
        subprocess.run([sys.executable, HERE / "make.py", options.folder, model], check=True, stdout=sys.stderr,
                       stderr=subprocess.DEVNULL)
        config = json.loads((options.folder / model / "config.json").read_text())

        def run(system: str, workload: str) -> dict:
            command, dtype = SYSTEMS[system]
            if command[0] == "libsao_generate":
                command = [options.programs / command[0]]
            return call(command + [options.folder, model, workload, options.threads,
                                   options.dtype if dtype == "float32" else dtype, options.device])

        ours = run("libsao", "check")["ids"]
        for system in systems:
            theirs = run(system, "check")
            equal = sum(a == b for x, y in zip(ours, theirs["ids"], strict=True) for a, b in zip(x, y, strict=True))
            first = sum(x[0] == y[0] for x, y in zip(ours, theirs["ids"], strict=True))
            print(f"{model}, {system} ({theirs['version']}): {first} of {len(ours)} first tokens, "
                  f"{equal} of {sum(map(len, ours))} tokens as libsao's", flush=True)
            if first < 0.75 * len(ours):
                sys.exit(f"{system} computes something else on {model}")
        print(f"\n| {model} | " + " | ".join(systems) + " | libsao beside the best (in 8 bits) | of the limit: linear layers, attention too |\n" + "|---" * (len(systems) + 3) + "|")
        for workload in options.workloads.split(","):
            work = json.loads((options.folder / "workloads.json").read_text())[workload]
            count = sum(work["new_tokens"]) or sum(map(len, work["prompts"]))
            rates, memory = {s: [] for s in systems}, {}
            for _ in range(options.repeats):
                for system in systems:
                    result = run(system, workload)
                    if result["lengths"] != (work["new_tokens"] or [1] * len(work["prompts"])):
                        sys.exit(f"{system} {workload}: other lengths than asked for: {result['lengths']}")
                    rates[system].append(count / result["seconds"])
                    memory[system] = result["peak_mib"]
            median = {s: statistics.median(r) for s, r in rates.items()}
            ratios = []  # of libsao to the best peer, float32 and 8 bits apart
            for ours, is_kind in (("libsao", lambda s: SYSTEMS[s][1] in ("float32", "f32")),
                                  ("libsao-int8", lambda s: SYSTEMS[s][1] in ("int8", "q8_0"))):
                peers = [m for s, m in median.items() if not s.startswith("libsao") and is_kind(s)]
                if ours in median and peers:
                    ratios.append(f"{median[ours] / max(peers):.2f}")
            cells = [f"{median[s]:.1f} ({min(rates[s]):.1f} to {max(rates[s]):.1f}), {memory[s]}" for s in systems]
            mine = median[next(s for s in systems if s.startswith("libsao"))]
            shares = [mine / limit_of(work, config, machine, options.dtype, attention) for attention in (False, True)]
            print(f"| {workload} | " + " | ".join(cells) + f" | {', '.join(ratios)} | {shares[0]:.0%}, {shares[1]:.0%} |", flush=True)
        print()


main()
