# SPDX-License-Identifier: Apache-2.0
"""How far transformers, computing in bfloat16 and float16, is from its own float32 on the checkpoints of make.py.

Writes half_precision.json: FOLDER -> DTYPE -> logits and log-probs -> the largest and the mean difference from
expected.safetensors. Rows stand by themselves, without padding; attention is eager.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

HERE = pathlib.Path(__file__).parent


@torch.no_grad()
def differences(folder: pathlib.Path, dtype: torch.dtype) -> dict:
    expected = load_file(folder / "expected.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    rows, logits, log_probs = [], [], []
    for ids, mask in zip(expected["right.input_ids"], expected["right.attention_mask"], strict=True):
        ids = ids[mask.bool()]
        rows.append(model(input_ids=ids[None]).logits[0].float())
        logps = rows[-1][:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        log_probs.append(logps - expected["right.per_token_logps"][len(rows) - 1, :len(logps)])
    for (row, position), right in zip(expected["right.selected"].tolist(), expected["right.logits"], strict=True):
        logits.append(rows[row][position] - right)
    summary = lambda found: dict(max=float(f"{found.abs().max():.4g}"), mean=float(f"{found.abs().mean():.4g}"))
    return dict(logits=summary(torch.cat(logits)), log_probs=summary(torch.cat(log_probs)))


def main() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    found = {folder.parent.name: {name: differences(folder.parent, dtype) for name, dtype in
                                  (("bfloat16", torch.bfloat16), ("float16", torch.float16))}
             for folder in sorted(HERE.glob("*/expected.safetensors"))}
    (HERE / "half_precision.json").write_text(json.dumps(found, indent=1) + "\n")


main()
