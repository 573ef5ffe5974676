# SPDX-License-Identifier: Apache-2.0
"""Are folders that libsao saved read by transformers as they were meant? Run by saved_test.cpp.

    python check_saved.py FOLDER...

Each FOLDER is a saved model with sao.safetensors: `ids` [n] and the `logits` [n, V] that libsao computes, and, beside
config.json, `original.txt` naming the folder it was loaded from, if any. One line of JSON for each: tensors compared and
how many of them differ, config fields that differ, the largest difference of a logit from libsao's, and, where there is
an original, from those that transformers computes from it."""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

IGNORED = {"transformers_version", "_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype"}


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32,
                                                       output_loading_info=True)
    problems = {k: sorted(map(str, v)) for k, v in info.items() if v}
    return model.eval(), problems


@torch.no_grad()
def check(folder):
    expected = load_file(folder / "sao.safetensors")
    model, problems = load(folder)
    logits = model(input_ids=expected["ids"][None], use_cache=False).logits[0]
    stored = {k: v for path in folder.glob("model*.safetensors") for k, v in load_file(path).items()}
    state = model.state_dict()
    result = {
        "name": folder.name,
        "problems": problems,
        "tensors": len(stored),
        "differ": sorted(k for k, v in stored.items() if k not in state or not torch.equal(v.float(), state[k])),
        "logits": logits.numel(),
        "worst": (logits - expected["logits"]).abs().max().item(),
        "class": type(model).__name__,
    }
    name = folder / "original.txt"
    if name.exists():
        original, _ = load(name.read_text())
        theirs = original.state_dict()
        if theirs.keys() != state.keys():
            result["differ"] += sorted(theirs.keys() ^ state.keys())
        result["differ"] += sorted(k for k in theirs if k in state and not torch.equal(theirs[k], state[k]))
        before = original(input_ids=expected["ids"][None], use_cache=False).logits[0]
        result["worst_of_original"] = (logits - before).abs().max().item()
        a, b = original.config.to_dict(), model.config.to_dict()
        result["config"] = sorted(k for k in a | b if k not in IGNORED and a.get(k) != b.get(k))
    return result


def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    for folder in sys.argv[1:]:
        print(json.dumps(check(pathlib.Path(folder))), flush=True)


if __name__ == "__main__":
    main()
