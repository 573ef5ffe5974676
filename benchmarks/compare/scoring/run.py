# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given responses with libsao's Engine::score beside transformers and CTranslate2.

./dev bench compare scoring [--models M,..] [--workloads S1,..] [--systems S,..] [--repeats N] [--threads N]
    [--dtype float32] [--device cpu]

S1: what a reference model does before DPO: two responses of 128 tokens each after prompts of 384. S2: choices of a
question: four of 12 tokens each after 256. The models are those of compare/generation (its make.py). Every system gives
the sum of each response's log-probs; they are compared with libsao's first, and a system that computes something else
ends the run. Then the systems take turns, one process a measurement, loading and warming up not counted. The rate counts
prompt and response tokens of every response, those included that a system computes once for several. The Python that
runs this must import torch, transformers, ctranslate2, xllamacpp and gguf.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}  # OpenMP's default for all
SYSTEMS = {
    "libsao": ["libsao_score"],
    "transformers": [sys.executable, HERE / "peer_transformers.py"],
    "ctranslate2": [sys.executable, HERE / "peer_ctranslate2.py"],
}
TOLERANCE = 2e-3  # of a response's log-prob, relative; CTranslate2's Gemma-2 has no soft caps


def call(command: list) -> dict:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT)
    if result.returncode != 0 or not result.stdout.strip():
        sys.exit(f"{' '.join(str(part) for part in command)} failed ({result.returncode}):\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def workloads() -> dict:
    draw = random.Random(3)
    tokens = lambda count: [draw.randrange(300, 31000) for _ in range(count)]

    def rows(prompts: int, prompt: int, responses: int, response: int) -> list:
        return [[head, tokens(response)] for head in [tokens(prompt) for _ in range(prompts)] for _ in range(responses)]

    return {"S1": rows(16, 384, 2, 128), "S2": rows(16, 256, 4, 12)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="g2-100m,l3-300m")
    parser.add_argument("--workloads", default="S1,S2")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build" / "bin")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "compare-generation")
    options = parser.parse_args()
    systems = options.systems.split(",")
    print(f"{options.dtype} on {options.device}, {options.threads} threads, {options.repeats} processes each in turn; median "
          "(least to most) tokens a second, peak MiB\n")
    print("| model | workload | " + " | ".join(systems) + " | libsao beside the best | largest relative difference |")
    print("|---" * (len(systems) + 4) + "|", flush=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "scoring.json").write_text(json.dumps(workloads()))
    for model in options.models.split(","):
        subprocess.run([sys.executable, HERE.parent / "generation" / "make.py", options.folder, model], check=True,
                       stdout=sys.stderr, stderr=subprocess.DEVNULL)
        for workload in options.workloads.split(","):
            count = sum(len(prompt) + len(response) for prompt, response in workloads()[workload])
            rates, memory, sums = {s: [] for s in systems}, {}, {}
            for _ in range(options.repeats):
                for system in systems:
                    command = SYSTEMS[system]
                    if command[0] == "libsao_score":
                        command = [options.programs / command[0]]
                    result = call(command + [options.folder, model, workload, options.threads, options.dtype, options.device])
                    rates[system].append(count / result["seconds"])
                    memory[system], sums[system] = result["peak_mib"], result["sums"]
            difference = max(abs(a - b) / abs(a) for s in systems for a, b in zip(sums["libsao"], sums[s], strict=True))
            if difference > TOLERANCE:
                sys.exit(f"{model} {workload}: sums differ by {difference:.1e}, expected at most {TOLERANCE}")
            median = {s: statistics.median(r) for s, r in rates.items()}
            best = max((m for s, m in median.items() if s != "libsao"), default=float("nan"))
            cells = [f"{median[s]:.0f} ({min(rates[s]):.0f} to {max(rates[s]):.0f}), {memory[s]}" for s in systems]
            print(f"| {model} | {workload} | " + " | ".join(cells) + f" | {median['libsao'] / best:.2f} | {difference:.1e} |",
                  flush=True)


main()
