# SPDX-License-Identifier: Apache-2.0
"""What libsao writes is taken by datasets and TRL as it stands: python datasets_test.py WRITE_PAIRS WORK_FOLDER TOKENIZER.

Exit status 77 (skipped) where python has no datasets, transformers or trl."""

import os
import pathlib
import subprocess
import sys

writer, work, tokenizer_folder = sys.argv[1:]
os.environ["HF_DATASETS_CACHE"] = str(pathlib.Path(work) / "cache")
os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import datasets
    from transformers import AutoTokenizer
    from trl.data_utils import is_conversational, maybe_apply_chat_template
except Exception as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

subprocess.run([writer, work], check=True)
tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

conversations = datasets.load_dataset("json", data_files=str(pathlib.Path(work) / "conversations.jsonl"), split="train")
assert len(conversations) == 3, conversations
for i, row in enumerate(conversations):
    assert is_conversational({k: row[k] for k in ("prompt", "chosen", "rejected")}), row
    assert row["prompt"] == [{"role": "user", "content": f"Where is Zürich, {i}?\n"}], row
    assert row["prompt_ids"] == [2, 4 + i] and row["rejected_ids"] == [8, 9, 1], row
    assert abs(row["p"] - (0.5 + 0.1 * i)) < 1e-12, row
    text = maybe_apply_chat_template(dict(row), tokenizer)
    whole = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], tokenize=False)
    assert text["prompt"] + text["chosen"] == whole, (text, whole)
    assert text["rejected"].startswith("In Sweden 🐕."), text

texts = datasets.load_dataset("json", data_files=str(pathlib.Path(work) / "texts.jsonl"), split="train")
for row in texts:
    assert not is_conversational({k: row[k] for k in ("prompt", "chosen", "rejected")}), row
    assert maybe_apply_chat_template(dict(row), tokenizer)["chosen"] == " blue.", row
print(f"datasets {datasets.__version__} and trl took {len(conversations) + len(texts)} rows")
