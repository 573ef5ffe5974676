# SPDX-License-Identifier: Apache-2.0
"""Ten optimizer steps of TRL's DPOTrainer on a tiny model, metrics and final weights. See README.md."""

import json
import pathlib
import random
import shutil
import tempfile

import datasets
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from tokenizers import Tokenizer, models
from trl import DPOConfig, DPOTrainer

HERE = pathlib.Path(__file__).parent
SEED = 20251
STEPS = 10
RUNS = {
    "cosine": dict(lr_scheduler_type="cosine", warmup_steps=2, per_device_train_batch_size=6),
    "linear_accumulated": dict(lr_scheduler_type="linear", warmup_steps=0, per_device_train_batch_size=2,
                               gradient_accumulation_steps=3),
}


class IdsTrainer(DPOTrainer):
    """Takes token ids as they are; no tokenizer touches them."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
                         tie_word_embeddings=False, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    shutil.rmtree(HERE / "model", ignore_errors=True)
    model.save_pretrained(HERE / "model")

    rng = random.Random(SEED)
    rows = []
    for _ in range(6):
        ids = lambda low, high: [rng.randrange(3, 64) for _ in range(rng.randrange(low, high))]
        rows.append({"prompt_ids": [1] + ids(2, 6), "chosen_ids": ids(1, 8) + [2], "rejected_ids": ids(1, 8) + [2]})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0")),
        pad_token="t0", eos_token="t2", bos_token="t1")

    expected = {"rows": rows, "runs": {}}
    final = {}
    for name, options in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            args = DPOConfig(output_dir=folder, beta=0.5, learning_rate=3e-3, weight_decay=0.1, max_grad_norm=0.5,
                             num_train_epochs=STEPS, logging_steps=1, save_strategy="no", report_to=[],
                             use_cpu=True, bf16=False, gradient_checkpointing=False, seed=SEED,
                             optim="adamw_torch", **options)
            policy = LlamaForCausalLM.from_pretrained(HERE / "model", dtype=torch.float32)
            reference = LlamaForCausalLM.from_pretrained(HERE / "model", dtype=torch.float32)
            trainer = IdsTrainer(model=policy, ref_model=reference, args=args, processing_class=tokenizer,
                                 train_dataset=datasets.Dataset.from_list(rows))
            trainer.train()
            keep = ("loss", "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
                    "rewards/margins", "logps/chosen", "logps/rejected", "num_tokens", "epoch")
            steps = [{k: entry[k] for k in keep} for entry in trainer.state.log_history if "loss" in entry]
            assert len(steps) == STEPS, len(steps)
            expected["runs"][name] = {"steps": steps}
            for key, value in policy.state_dict().items():
                final[f"{name}.{key}"] = value.contiguous().clone()
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    save_file(final, HERE / "final.safetensors")


if __name__ == "__main__":
    main()
