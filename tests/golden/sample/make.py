# SPDX-License-Identifier: Apache-2.0
"""Which tokens transformers' logits warpers keep. Run: python make.py (writes logits.f32 and kept.txt beside itself)."""
import itertools
import pathlib

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCABULARY = 301
here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(20240607)


def normal(scale):
    return torch.randn(VOCABULARY, generator=generator) * scale


masked = normal(3.0)
masked[::3] = -float("inf")
rows = torch.stack([
    normal(0.05),                        # nearly flat
    normal(1.0),
    normal(4.0),                         # peaked
    12.0 * torch.tanh(normal(8.0) / 12.0),  # as a soft cap leaves it
    masked,
    (normal(2.0) * 2).round() / 2,       # many equal logits: top-k and min-p only, top-p's choice among equals is open
])


def kept(row, dtype, temperature, top_k, top_p, min_p):
    warpers = LogitsProcessorList()  # the order of GenerationMixin._get_logits_processor
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k=top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p=top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p=min_p))
    return torch.isfinite(warpers(None, row[None].to(dtype))[0])


lines = []
for r, row in enumerate(rows):
    for temperature, top_k, top_p, min_p in itertools.product(
            (1.0, 0.7, 2.5), (0, 1, 7, 40, 300, 5000), (1.0, 0.95, 0.6, 0.05), (0.0, 0.02, 0.3)):
        if r == 5 and top_p < 1.0:
            continue
        mask = kept(row, torch.float32, temperature, top_k, top_p, min_p)
        if not torch.equal(mask, kept(row, torch.float64, temperature, top_k, top_p, min_p)):
            continue  # the answer hangs on rounding
        bits = "".join(str(int(b)) for b in mask.tolist())
        lines.append(f"{r} {temperature} {top_k} {top_p} {min_p} {int(bits, 2):x}")
rows.numpy().astype("<f4").tofile(here / "logits.f32")
(here / "kept.txt").write_text("\n".join(lines) + "\n")
print(len(lines), "cases")
