# SPDX-License-Identifier: Apache-2.0
"""peer_trl.py FOLDER MODEL LOSS PAIRS STEPS THREADS DTYPE DEVICE: TRL's trainer on FOLDER/pairs.jsonl, one JSON line.

On a GPU two pairs at a time, accumulated: all of them do not fit beside the optimizer's state.

The rows' ids become words of a word-level tokenizer, so that TRL's own tokenisation gives the ids back. Attention is
"eager" for Gemma-2, whose soft cap transformers' default drops; else the default.
"""

import json
import logging
import os
import pathlib
import resource
import sys
import tempfile
import time
import warnings

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1",
                  TRL_EXPERIMENTAL_SILENCE="1")
on_gpu = sys.argv[8] != "cpu"
if not on_gpu:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")

import datasets
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

folder, name, loss = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
pairs, steps, threads = (int(x) for x in sys.argv[4:7])
transformers.logging.set_verbosity_error()
datasets.disable_progress_bars()
logging.disable(logging.WARNING)
torch.set_num_threads(threads)

config = AutoConfig.from_pretrained(folder / name)
word_level = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(config.vocab_size)}, unk_token="<3>"))
word_level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_level, eos_token="<1>", pad_token="<0>", unk_token="<3>")
words = lambda ids: " ".join(f"<{i}>" for i in ids)  # no word is found inside another
rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
length = len(rows[0]["prompt_ids"]) + len(rows[0]["chosen_ids"])
data = datasets.Dataset.from_list([
    {"prompt": words(row["prompt_ids"]), "chosen": f" {words(row['chosen_ids'][:-1])} ",
     "rejected": f" {words(row['rejected_ids'][:-1])} "} for row in rows])

attention = {"attn_implementation": "eager"} if config.model_type == "gemma2" else {}
load = lambda: AutoModelForCausalLM.from_pretrained(folder / name, dtype=getattr(torch, sys.argv[7]), **attention)
micro = min(pairs, 2) if on_gpu else pairs
common = dict(use_cpu=not on_gpu, bf16=False, fp16=False, gradient_checkpointing=False, report_to=[], max_steps=steps,
              per_device_train_batch_size=micro, gradient_accumulation_steps=pairs // micro, output_dir=tempfile.mkdtemp(), disable_tqdm=True, save_strategy="no",
              logging_strategy="steps", logging_steps=1, learning_rate=1e-5, lr_scheduler_type="constant", seed=7,
              max_length=length, dataloader_pin_memory=False, train_sampling_strategy="sequential")
if loss == "dpo":
    from trl import DPOConfig, DPOTrainer
    trainer = DPOTrainer(model=load(), ref_model=load(), args=DPOConfig(beta=0.1, **common), train_dataset=data,
                         processing_class=tokenizer)
else:
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    trainer = CPOTrainer(model=load(), train_dataset=data, processing_class=tokenizer,
                         args=CPOConfig(loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0,
                                        remove_unused_columns=False, **common))

times, losses = [], []


class Clock(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - self.begin)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            losses.append(float(logs["loss"]))


trainer.add_callback(Clock())
resident = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
gpu = lambda: (lambda free, total: (total - free) / 2**20)(*torch.cuda.mem_get_info())
before = gpu() if on_gpu else resident()
trainer.train()
print(json.dumps({"system": "trl", "times": times, "losses": losses, "before_mib": round(before),
                  "peak_mib": round(gpu() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
