# SPDX-License-Identifier: Apache-2.0
"""Preference rows as the datasets library writes them, and a check that it reads what libsao writes.

usage: python make.py                 writes datasets.jsonl   (datasets 5.2.0, pyarrow 26.0.1)
       python make.py pairs.jsonl     loads a file of libsao's and prints its columns
"""

import pathlib
import sys

import datasets


def row(prompt, chosen, rejected, ids, p):
    def message(role, content):
        return [{"role": role, "content": content}]

    return {
        "prompt": message("user", prompt),
        "chosen": message("assistant", chosen),
        "rejected": message("assistant", rejected),
        "prompt_ids": ids[0],
        "chosen_ids": ids[1],
        "rejected_ids": ids[2],
        "p": p,
    }


if len(sys.argv) > 1:
    data = datasets.load_dataset("json", data_files=sys.argv[1], split="train")
    print(data.features)
    print(data[0])
else:
    rows = [
        row("Where is Zürich?", "In Switzerland.", "In Sweden.", ([2, 4], [7, 1], [8, 1]), 1.0),
        row("Where is Mali?", 'In "Africa".', "In\nAsia.", ([2, 3], [5, 6, 1], [9, 1]), 0.75),
    ]
    datasets.Dataset.from_list(rows).to_json(pathlib.Path(__file__).with_name("datasets.jsonl"))
