# SPDX-License-Identifier: Apache-2.0
"""Writes dtypes.safetensors: one tensor of each dtype, by the reference implementation of the format.

usage: python make.py    (torch 2.11.0, safetensors 0.8.0)
"""

import pathlib

import torch
from safetensors.torch import save_file

values = torch.tensor([[0.0, 1.0, -2.5], [3.25, 100.0, -0.125]], dtype=torch.float64)
integers = torch.tensor([0, 1, -2, 100], dtype=torch.int64)
tensors = {
    "f64": values,
    "i64": integers,
    "f32": values.float(),
    "i32": integers.int(),
    "bf16": values.bfloat16(),
    "f16": values.half(),
    "i16": integers.short(),
    "bool": torch.tensor([True, False, True]),
    "i8": integers.char(),
    "scalar_u8": torch.tensor(7, dtype=torch.uint8),
    "empty_f32": torch.empty(0, 3),
}
save_file(tensors, pathlib.Path(__file__).with_name("dtypes.safetensors"), metadata={"format": "pt"})
