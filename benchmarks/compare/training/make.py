# SPDX-License-Identifier: Apache-2.0
"""make.py FOLDER MODEL PAIRS LENGTH PROMPT_SHARE STEPS: a checkpoint with random weights and random preference pairs.

Writes FOLDER/MODEL (a Hugging Face folder) unless it is there, and FOLDER/pairs.jsonl: (STEPS) x PAIRS rows of exactly
LENGTH tokens a side, of which PROMPT_SHARE are the prompt; no padding is needed, which favours the peer.
"""

import json
import pathlib
import random
import sys

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

GEMMA = dict(head_dim=64, query_pre_attn_scalar=64, sliding_window=4096, max_position_embeddings=8192, pad_token_id=0,
             eos_token_id=1, bos_token_id=2, tie_word_embeddings=True)
MODELS = {
    "bench-vocab": lambda: Gemma2Config(vocab_size=256000, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
                                        num_attention_heads=4, num_key_value_heads=2, **GEMMA),
    "bench-100m": lambda: Gemma2Config(vocab_size=32000, hidden_size=640, intermediate_size=2560, num_hidden_layers=12,
                                       num_attention_heads=10, num_key_value_heads=5, **GEMMA),
    "bench-llama": lambda: LlamaConfig(vocab_size=128256, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
                                       num_attention_heads=8, num_key_value_heads=4, head_dim=64,
                                       max_position_embeddings=8192, rms_norm_eps=1e-5, bos_token_id=2, eos_token_id=1,
                                       pad_token_id=0, tie_word_embeddings=True,
                                       rope_parameters=dict(rope_type="default", rope_theta=500000.0)),
    "g2-2b": lambda: Gemma2Config(**GEMMA | dict(vocab_size=256000, hidden_size=2304, intermediate_size=9216,
                                                 num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
                                                 head_dim=256, query_pre_attn_scalar=256)),
}


def main() -> None:
    folder, model = pathlib.Path(sys.argv[1]), sys.argv[2]
    pairs, length, share, steps = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
    folder.mkdir(parents=True, exist_ok=True)
    config = MODELS[model]()
    if not (folder / model / "config.json").exists():
        torch.manual_seed(1)
        on_gpu = model == "g2-2b"
        with torch.device("cuda" if on_gpu else "cpu"):
            new = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32)
        new.save_pretrained(folder / model)
    draw = random.Random(7)
    prompt = max(1, int(length * share))
    tokens = lambda count: [draw.randrange(4, config.vocab_size) for _ in range(count)]
    with (folder / "pairs.jsonl").open("w") as file:
        for _ in range(pairs * steps):
            row = {"prompt_ids": tokens(prompt)}
            for side in ("chosen_ids", "rejected_ids"):
                row[side] = tokens(length - prompt - 1) + [1]  # TRL ends a response with the eos token
            file.write(json.dumps(row) + "\n")


main()
