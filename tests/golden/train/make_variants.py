# SPDX-License-Identifier: Apache-2.0
"""A few optimizer steps of TRL's DPOTrainer, KTOTrainer and TPOTrainer with their options. See README.md."""

import json
import pathlib
import random
import tempfile

import datasets
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer

HERE = pathlib.Path(__file__).parent
SEED = 20261
STEPS = 6
RUNS = {
    "moving_reference": (DPOTrainer, dict(sync_ref_model=True, ref_model_mixup_alpha=0.6, ref_model_sync_steps=2)),
    "aot": (DPOTrainer, dict(loss_type=["aot"], label_smoothing=0.1)),
    "aot_unpaired": (DPOTrainer, dict(loss_type=["aot_unpaired"])),
    "mpo": (DPOTrainer, dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])),
    "wpo": (DPOTrainer, dict(loss_type=["sigmoid"], use_weighting=True)),
    "ld_alpha": (DPOTrainer, dict(loss_type=["sigmoid"], ld_alpha=0.3)),
    "kto": (KTOTrainer, dict(loss_type="kto", desirable_weight=1.0, undesirable_weight=1.5)),
    "apo_zero_unpaired": (KTOTrainer, dict(loss_type="apo_zero_unpaired")),
    "tpo": (TPOTrainer, dict(loss_type="sigmoid", tpo_alpha=0.5)),
    "tpo_l": (TPOTrainer, dict(loss_type="tpo-l", tpo_l_gamma=0.4)),
}
CONFIGS = {DPOTrainer: DPOConfig, KTOTrainer: KTOConfig, TPOTrainer: TPOConfig}


def main():
    torch.set_num_threads(1)
    rng = random.Random(SEED)
    ids = lambda low, high: [rng.randrange(3, 64) for _ in range(rng.randrange(low, high))]
    pairs = [{"prompt_ids": [1] + ids(2, 6), "chosen_ids": ids(1, 8) + [2], "rejected_ids": ids(1, 8) + [2],
              "reference_ids": ids(1, 8) + [2]} for _ in range(6)]
    completions = [{"prompt_ids": [1] + ids(2, 6), "completion_ids": ids(1, 8) + [2], "label": i % 3 != 1}
                   for i in range(12)]
    # KTO's rows of a step stay together, in order; each prompt meets the completion before it.
    for begin in (0, 6):
        batch = completions[begin:begin + 6]
        for row, before in zip(batch, batch[-1:] + batch[:-1]):
            row["KL_completion_ids"] = before["completion_ids"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0")),
        pad_token="t0", eos_token="t2", bos_token="t1")

    expected = {"pairs": pairs, "completions": [{k: v for k, v in row.items() if k != "KL_completion_ids"}
                                                for row in completions], "runs": {}}
    for name, (trainer_class, options) in RUNS.items():
        # Takes token ids as they are; no tokenizer touches them.
        ids_trainer = type(trainer_class.__name__, (trainer_class,), {"_prepare_dataset": lambda self, d, *a, **k: d})
        rows = completions if trainer_class is KTOTrainer else pairs
        if trainer_class is DPOTrainer:
            rows = [{k: v for k, v in row.items() if k != "reference_ids"} for row in rows]
        if trainer_class is KTOTrainer:
            options = dict(options, train_sampling_strategy="sequential")
        if options.get("loss_type") == "apo_zero_unpaired":
            rows = [{k: v for k, v in row.items() if k != "KL_completion_ids"} for row in rows]
        with tempfile.TemporaryDirectory() as folder:
            args = CONFIGS[trainer_class](
                output_dir=folder, beta=0.5, learning_rate=3e-3, weight_decay=0.0, max_grad_norm=0.0,
                lr_scheduler_type="constant", per_device_train_batch_size=6, max_steps=STEPS, logging_steps=1,
                save_strategy="no", report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, seed=SEED,
                optim="adamw_torch", **options)
            policy = LlamaForCausalLM.from_pretrained(HERE / "model", dtype=torch.float32)
            more = {} if trainer_class is TPOTrainer else {
                "ref_model": LlamaForCausalLM.from_pretrained(HERE / "model", dtype=torch.float32)}
            trainer = ids_trainer(model=policy, args=args, processing_class=tokenizer,
                                  train_dataset=datasets.Dataset.from_list(rows), **more)
            trainer.train()
            steps = [{k: v for k, v in entry.items() if k not in ("step", "epoch", "learning_rate")}
                     for entry in trainer.state.log_history if "loss" in entry]
            assert len(steps) == STEPS, len(steps)
            expected["runs"][name] = {"steps": steps, "model.norm.weight": policy.model.norm.weight.tolist()}
    (HERE / "variants.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
