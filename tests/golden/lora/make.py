# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in PEFT's folder format on the checkpoints of ../model, what PEFT computes with them, and a training run
of TRL with one. See README.md."""

import copy
import json
import pathlib
import random
import shutil
import tempfile

import datasets
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

HERE = pathlib.Path(__file__).parent
MODELS = HERE.parent / "model"
SEED = 20310
LENGTHS = (19, 1, 7)
MATTERS = 0.05  # least change of a logit by the adapter
STEPS = 8

SETS = {
    "llama3": dict(r=4, lora_alpha=6, target_modules="all-linear"),
    "gemma2": dict(r=3, lora_alpha=8, use_rslora=True, lora_dropout=0.25,
                   target_modules=["q_proj", "v_proj", "down_proj"], layers_to_transform=[0, 2],
                   rank_pattern={"down_proj": 5, "model.layers.2.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "phi3": dict(r=4, lora_alpha=6, target_modules="all-linear"),
    "qwen2": dict(r=2, lora_alpha=5, target_modules="all-linear", use_rslora=True),
}


class IdsTrainer(DPOTrainer):
    """Takes token ids as they are; no tokenizer touches them."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def load(name):
    return AutoModelForCausalLM.from_pretrained(MODELS / name, attn_implementation="eager", dtype=torch.float32).eval()


def save_adapter(model, folder, base):
    """As PEFT does it, without the path of this machine and the model card."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def short(name):
    """base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight -> model.layers.0.mlp.up_proj.lora_A.weight"""
    return name.removeprefix("base_model.model.").replace(".default.", ".")


def row_logits(model, rows):
    return [model(input_ids=row[None], use_cache=False).logits[0] for row in rows]


def make(name, options):
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    base = load(name)
    rows = [torch.randint(base.config.vocab_size, (n,), generator=generator) for n in LENGTHS]
    with torch.no_grad():
        without = row_logits(base, rows)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
    save_adapter(model, HERE / name, name)
    logits = row_logits(model, rows)
    by = max((a - b).abs().max().item() for a, b in zip(logits, without))
    print(f"{name}: the adapter changes a logit by {by:.3g}")
    assert by > MATTERS

    logps = [torch.log_softmax(l[:-1], -1).gather(1, r[1:, None])[:, 0] for l, r in zip(logits, rows) if len(r) > 1]
    loss = torch.cat(logps).mean()
    loss.backward()
    out = {"ids": torch.cat(rows), "lengths": torch.tensor(LENGTHS), "logits": torch.cat(logits).detach(),
           "loss": loss.detach()}
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in key), key
        if parameter.requires_grad:
            out["grad." + short(key)] = parameter.grad.clone()
    merged = copy.deepcopy(model).merge_and_unload()
    before = load(name).state_dict()
    for key, value in merged.state_dict().items():
        if key in before and not torch.equal(value, before[key]):
            out["merged." + key] = value.clone()
    with torch.no_grad():
        merging = max((a - b).abs().max().item() for a, b in zip(row_logits(merged, rows), logits))
        again = PeftModel.from_pretrained(load(name), HERE / name).eval()
        reading = max((a - b).abs().max().item() for a, b in zip(row_logits(again, rows), logits))
    print(f"{name}: merging changes a logit by {merging:.2g}, saving and loading by {reading:.2g}")
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / name / "expected.safetensors")


def make_training(name="llama3"):
    rng = random.Random(SEED)
    ids = lambda low, high: [rng.randrange(5, 96) for _ in range(rng.randrange(low, high))]
    rows = [{"prompt_ids": [0] + ids(2, 6), "chosen_ids": ids(1, 8) + [4], "rejected_ids": ids(1, 8) + [4]}
            for _ in range(6)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"t{i}": i for i in range(96)}, unk_token="t2")),
        pad_token="t2", eos_token="t4", bos_token="t0")
    expected = {"rows": rows, "runs": {}}
    # "fresh": new adapters, the reference is the base. "continued": those of SETS, the reference is their start.
    for run in ("fresh", "continued"):
        with tempfile.TemporaryDirectory() as folder:
            args = DPOConfig(output_dir=folder, beta=0.5, learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.5,
                             num_train_epochs=STEPS, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
                             bf16=False, gradient_checkpointing=False, seed=SEED, optim="adamw_torch",
                             lr_scheduler_type="cosine", warmup_steps=2, per_device_train_batch_size=6)
            peft_config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "v_proj",
                                                                                               "up_proj", "down_proj"])
            policy = load(name)
            if run == "continued":
                policy, peft_config = PeftModel.from_pretrained(policy, HERE / name, is_trainable=True), None
            trainer = IdsTrainer(model=policy, args=args, processing_class=tokenizer, peft_config=peft_config,
                                 train_dataset=datasets.Dataset.from_list(rows))
            if run == "fresh":
                save_adapter(trainer.model, HERE / "train" / "start", name)
            trainer.train()
            trainer.model.save_pretrained(folder + "/final", selected_adapters=["default"])
            final = load_file(folder + "/final/adapter_model.safetensors")
            keep = ("loss", "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
                    "rewards/margins", "logps/chosen", "logps/rejected", "num_tokens", "epoch")
            steps = [{k: entry[k] for k in keep} for entry in trainer.state.log_history if "loss" in entry]
            assert len(steps) == STEPS, len(steps)
            print(f"{run}: losses {[round(s['loss'], 4) for s in steps]}")
            expected["runs"][run] = {"steps": steps}
            save_file({short(k): v.contiguous() for k, v in final.items()}, HERE / "train" / f"{run}.safetensors")
    (HERE / "train" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name, options in SETS.items():
        make(name, options)
    make_training()


if __name__ == "__main__":
    main()
