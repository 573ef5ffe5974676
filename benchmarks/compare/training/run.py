# SPDX-License-Identifier: Apache-2.0
"""A training step of libsao beside TRL's: same weights, same pairs, equal losses first, then time and memory.

./dev bench compare training [--models M,..] [--losses dpo,simpo] [--pairs N] [--length N] [--prompt-share X]
    [--steps N] [--threads N] [--repeats N] [--dtype float32] [--device cpu]

The systems take turns, `repeats` processes each; the first step of a process is not counted. Prints a Markdown table:
median seconds a step (spread), the ratio of the medians, and peak memory above what the process held before training.
The Python that runs this must import torch, transformers, trl and datasets.
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


def call(command: list) -> dict:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="bench-100m,bench-llama,bench-vocab")
    parser.add_argument("--losses", default="dpo,simpo")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--prompt-share", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build" / "bin")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "compare-training")
    options = parser.parse_args()
    print(f"{options.pairs} pairs of {options.length} tokens a side, {options.prompt_share:.0%} of them the prompt; {options.dtype} on {options.device}, "
          f"{options.threads} threads, {options.repeats} processes each in turn, {options.steps - 1} steps counted of each\n")
    print("| model | loss | TRL s/step | libsao s/step | ratio | TRL MiB | libsao MiB | ratio | largest difference of losses |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in options.models.split(","):
        subprocess.run([sys.executable, HERE / "make.py", options.folder, model, str(options.pairs), str(options.length),
                        str(options.prompt_share), str(options.steps)], check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)
        for loss in options.losses.split(","):
            arguments = [options.folder, model, loss, options.pairs, options.steps, options.threads, options.dtype,
                         options.device]
            runs = {"trl": [], "libsao": []}
            for _ in range(options.repeats):
                runs["trl"].append(call([sys.executable, HERE / "peer_trl.py", *arguments]))
                runs["libsao"].append(call([options.programs / "libsao_step", *arguments]))
            difference = max(abs(a - b) / max(abs(a), 1e-12)
                             for a, b in zip(runs["trl"][0]["losses"], runs["libsao"][0]["losses"], strict=True))
            if difference > (1e-3 if options.dtype == "float32" else 2e-2):
                sys.exit(f"{model} {loss}: losses differ by {difference:.1e}, expected the same work: "
                         f"{runs['trl'][0]['losses']} and {runs['libsao'][0]['losses']}")
            times = {name: [t for run in mine for t in run["times"][1:]] for name, mine in runs.items()}
            memory = {name: statistics.median(run["peak_mib"] - run["before_mib"] for run in mine) for name, mine in runs.items()}
            show = lambda t: f"{statistics.median(t):.2f} ({min(t):.2f} to {max(t):.2f})"
            speed = statistics.median(times["trl"]) / statistics.median(times["libsao"])
            print(f"| {model} | {loss} | {show(times['trl'])} | {show(times['libsao'])} | {speed:.2f} | {memory['trl']:.0f} | "
                  f"{memory['libsao']:.0f} | {memory['libsao'] / memory['trl']:.2f} | {difference:.1e} |", flush=True)


main()
