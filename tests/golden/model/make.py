# SPDX-License-Identifier: Apache-2.0
"""Tiny random checkpoints in Hugging Face's layout, and what transformers computes from them. See README.md."""

import copy
import hashlib
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma3Config, Gemma3ForConditionalGeneration,
                          Gemma3TextConfig, GemmaConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config)
from transformers.utils import logging

HERE = pathlib.Path(__file__).parent
SEED = 20270
VOCAB = 96
LENGTHS = (24, 1, 9, 17)  # of the rows; windows are 6 to 9
PROMPTS = (3, 9, 18)  # lengths of the prompts of the greedy continuations
NEW_TOKENS = 20
MARGIN = 0.01  # least difference of the best two logits along a greedy continuation
DISTINCT = 6  # least number of distinct tokens of a continuation
ATTEMPTS = 100  # prompts tried for one continuation
MATTERS = 0.05  # least change of a logit where a setting of the config is taken away: 500 times the tests' tolerance
MATTERS_A_LITTLE = 0.001  # of a setting whose alternative computes nearly the same

COMMON = dict(vocab_size=VOCAB, hidden_size=32, max_position_embeddings=256)
SMALL = COMMON | dict(hidden_size=24)
GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
LLAMA_SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# `without`: settings whose absence must show in the logits; "zero" clears tensors, by the end of their names. `shard`: the
# most bytes of a file.
SETS = {
    "gemma2": dict(
        config=Gemma2Config(
            **COMMON, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, query_pre_attn_scalar=20, sliding_window=8, attn_logit_softcapping=6.0,
            final_logit_softcapping=8.0, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2),
        dtype=torch.float32, shard="1GB", specials=GEMMA_SPECIALS, bos="<bos>", eos="<eos>",
        without=[dict(attn_logit_softcapping=None), dict(final_logit_softcapping=None), dict(sliding_window=256),
                 dict(query_pre_attn_scalar=16), dict(layer_types=["full_attention"] + ["sliding_attention"] * 2)],
        gradients=["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                   "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.q_proj.weight",
                   "model.layers.2.post_feedforward_layernorm.weight", "model.layers.2.mlp.gate_proj.weight",
                   "model.norm.weight"]),
    "llama3": dict(
        config=LlamaConfig(
            **COMMON, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
            # With this base one frequency is kept, one blended and two divided by the factor.
            rope_parameters=dict(rope_type="llama3", rope_theta=1000.0, factor=8.0, low_freq_factor=1.0,
                                 high_freq_factor=4.0, original_max_position_embeddings=64)),
        dtype=torch.float32, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0)),
                 dict(rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=8.0))],
        gradients=["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.post_attention_layernorm.weight",
                   "model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.q_proj.weight",
                   "model.layers.1.mlp.down_proj.weight", "model.norm.weight"]),
    "llama-sharded": dict(
        config=LlamaConfig(
            **COMMON, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=[1, 4],
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
        dtype=torch.bfloat16, shard="30KB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0))],
        gradients=["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                   "model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.o_proj.weight",
                   "model.layers.2.mlp.up_proj.weight", "model.norm.weight"]),
    "gemma": dict(
        config=GemmaConfig(
            **SMALL, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=12,
            hidden_act="gelu", tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2),
        dtype=torch.bfloat16, shard="1GB", specials=GEMMA_SPECIALS, bos="<bos>", eos="<eos>",
        without=[dict(hidden_act="silu"), dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0))],
        without_much=[dict(hidden_act="gelu_pytorch_tanh")],
        gradients=["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                   "model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.q_proj.weight",
                   "model.layers.1.mlp.gate_proj.weight", "model.norm.weight"]),
    "gemma3": dict(
        config=Gemma3TextConfig(
            **SMALL, intermediate_size=32, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
            query_pre_attn_scalar=12, sliding_window=6, sliding_window_pattern=3, final_logit_softcapping=8.0,
            tie_word_embeddings=True, pad_token_id=0, eos_token_id=[1, 5], bos_token_id=2,
            rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1000.0),
                                 sliding_attention=dict(rope_type="default", rope_theta=100.0))),
        dtype=torch.float32, shard="1GB", specials=GEMMA_SPECIALS, bos="<bos>", eos="<eos>",
        without=[dict(sliding_window=256), dict(query_pre_attn_scalar=10), dict(final_logit_softcapping=None),
                 dict(layer_types=["sliding_attention"] * 3 + ["full_attention"]),
                 dict(rope_parameters=dict(full_attention=dict(rope_type="default", rope_theta=1000.0),
                                           sliding_attention=dict(rope_type="default", rope_theta=100.0))),
                 dict(rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1000.0),
                                           sliding_attention=dict(rope_type="default", rope_theta=1000.0))),
                 dict(zero="q_norm.weight"), dict(zero="k_norm.weight")],
        gradients=["model.layers.0.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight",
                   "model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn.k_norm.weight",
                   "model.layers.3.post_feedforward_layernorm.weight", "model.layers.3.self_attn.k_proj.weight"]),
    "llama-bias": dict(
        config=LlamaConfig(
            **COMMON | dict(hidden_size=30), intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
            rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, attention_bias=True,
            mlp_bias=True,
            rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=64,
                                 beta_fast=1.5, beta_slow=0.5, mscale=1.0, mscale_all_dim=0.5)),
        dtype=torch.float32, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0)),
                 dict(rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=4.0)),
                 dict(rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                                           original_max_position_embeddings=64, beta_fast=1.5, beta_slow=0.5)),
                 dict(rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                                           original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=0.5)),
                 *(dict(zero=n + "_proj.bias") for n in ("q", "v", "o", "gate", "up", "down"))],
        gradients=["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.v_proj.bias",
                   "model.layers.1.self_attn.o_proj.bias", "model.layers.1.mlp.gate_proj.bias",
                   "model.layers.1.mlp.up_proj.bias", "model.layers.0.mlp.down_proj.bias",
                   "model.layers.0.self_attn.k_proj.weight"]),
    "mistral": dict(
        config=MistralConfig(
            **SMALL, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
            rms_norm_eps=1e-5, sliding_window=6, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1),
        dtype=torch.float16, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(sliding_window=None), dict(sliding_window=7)],
        gradients=["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.k_proj.weight",
                   "model.layers.1.self_attn.o_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]),
    "qwen2": dict(
        config=Qwen2Config(
            **SMALL, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1,
            rms_norm_eps=1e-6, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, use_sliding_window=True,
            sliding_window=7, max_window_layers=1,
            rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=64)),
        dtype=torch.float32, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(layer_types=["full_attention"] * 3), dict(layer_types=["sliding_attention"] * 3),
                 dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0)),
                 dict(zero="q_proj.bias"), dict(zero="v_proj.bias")],
        gradients=["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias",
                   "model.layers.1.self_attn.v_proj.bias", "model.layers.2.self_attn.k_proj.weight",
                   "model.layers.2.mlp.down_proj.weight", "model.norm.weight"]),
    "qwen3": dict(
        config=Qwen3Config(
            **SMALL, intermediate_size=40, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=1, head_dim=10,
            rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, attention_bias=True,
            rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=8.0, original_max_position_embeddings=128,
                                 attention_factor=1.3, truncate=False)),
        dtype=torch.float32, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=8.0,
                                           original_max_position_embeddings=128, attention_factor=1.3)),
                 dict(rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=8.0,
                                           original_max_position_embeddings=128, truncate=False)),
                 dict(zero="q_norm.weight"), dict(zero="k_norm.weight"), dict(zero="q_proj.bias"),
                 dict(zero="o_proj.bias")],
        gradients=["model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight",
                   "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_norm.weight",
                   "model.layers.1.self_attn.k_proj.bias", "model.layers.1.self_attn.o_proj.bias", "lm_head.weight"]),
    "phi3": dict(
        config=Phi3Config(
            **SMALL, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
            rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=1, sliding_window=9,
            rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.75)),
        dtype=torch.float32, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(sliding_window=None),
                 dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=1.0))],
        gradients=["model.embed_tokens.weight", "model.layers.0.self_attn.qkv_proj.weight",
                   "model.layers.1.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight",
                   "model.layers.1.post_attention_layernorm.weight", "model.layers.1.self_attn.o_proj.weight"]),
    "phi3-longrope": dict(
        config=Phi3Config(
            **SMALL, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            original_max_position_embeddings=64,
            rope_parameters=dict(rope_type="longrope", rope_theta=1000.0, original_max_position_embeddings=64,
                                 short_factor=[1.0, 1.1, 1.3, 1.6, 2.0, 2.5], long_factor=[1.0, 2.0, 4.0, 6.0, 8.0, 9.0])),
        dtype=torch.float32, shard="1GB", specials=LLAMA_SPECIALS, bos="<|begin_of_text|>", eos="<|end_of_text|>",
        without=[dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=1.0)),
                 dict(rope_parameters=dict(rope_type="longrope", rope_theta=1000.0, original_max_position_embeddings=64,
                                           attention_factor=1.0, partial_rotary_factor=1.0,
                                           short_factor=[1.0, 1.1, 1.3, 1.6, 2.0, 2.5], long_factor=[1.0] * 6))],
        gradients=["model.embed_tokens.weight", "model.layers.0.self_attn.qkv_proj.weight",
                   "model.layers.1.mlp.gate_up_proj.weight", "model.layers.1.input_layernorm.weight",
                   "model.layers.1.self_attn.o_proj.weight", "model.norm.weight"]),
}


def build(config):
    # Not sdpa, the default: it drops Gemma-2's soft cap on the attention scores without a word.
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def randomise(model, generator):
    """Norms away from their identity; queries and keys so large that scores reach the soft cap. Small embeddings and a
    large final norm: what the layers add decides the next token, else a tied model repeats its last one."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            identity = 0.0 if name.endswith(".bias") or model.config.model_type.startswith("gemma") else 1.0
            parameter.data = 0.3 * noise + identity + (3.0 if name == "model.norm.weight" else 0.0)
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.data = 0.15 * noise
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            parameter.data = gain * noise / parameter.shape[1] ** 0.5


def write_tokenizer(folder, entry):
    """One character a token: the engine wants a tokenizer, the numbers do not depend on it."""
    pieces = entry["specials"] + [chr(ord(" ") + i) for i in range(VOCAB - len(entry["specials"]))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.add_special_tokens(entry["specials"])
    assert tokenizer.get_vocab_size() == VOCAB
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"bos_token": entry["bos"], "eos_token": entry["eos"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n")


def write_old_config(folder):
    """config.json as transformers 4 wrote it."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    # transformers 4 before layer_types, where the layers with a window follow a rule
    config.pop("layer_types", None)
    if config["model_type"] == "gemma3_text":
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope.pop("rope_theta")
    if config["model_type"] == "phi3":
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        rope.pop("original_max_position_embeddings", None)
    if rope["rope_type"] in ("yarn", "longrope"):
        rope["type"] = rope.pop("rope_type")  # the older name
    config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    config["transformers_version"] = "4.46.0"
    path = folder / "config.v4.json"
    path.write_text(json.dumps(config, indent=2) + "\n")
    read = [AutoConfig.from_pretrained(p).to_dict() | {"_name_or_path": None} for p in (folder / "config.json", path)]
    for config in read:  # what stays of the older names
        config["rope_parameters"].pop("type", None)
        config.pop("partial_rotary_factor", None)
    differ = {k: (read[0].get(k), read[1].get(k)) for k in read[0] | read[1] if read[0].get(k) != read[1].get(k)}
    assert not differ, differ


def save(name, entry, generator):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = build(copy.deepcopy(entry["config"]))
    randomise(model, generator)
    model.to(entry["dtype"]).save_pretrained(folder, max_shard_size=entry["shard"])
    shards = len(list(folder.glob("model*.safetensors")))
    assert shards == (1 if entry["shard"] == "1GB" else 2), shards
    write_tokenizer(folder, entry)
    write_old_config(folder)
    return folder


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()


def log_probs(logits, ids):
    return torch.log_softmax(logits[:-1].float(), -1).gather(1, ids[1:, None])[:, 0]


@torch.no_grad()
def forward(model, row):
    """A row by itself: no padding and no cache."""
    out = model(input_ids=row[None], output_hidden_states=True, use_cache=False)
    return out.logits[0], [state[0] for state in out.hidden_states]


def pad_rows(tensors):
    return torch.nn.utils.rnn.pad_sequence([t.float() for t in tensors], batch_first=True)


def expected_rows(model, rows):
    logits, states = zip(*(forward(model, row) for row in rows))
    out = {
        "right.input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "right.attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True),
        "right.last_hidden": pad_rows([s[-1] for s in states]),
        "right.hidden_0": pad_rows([s[0] for s in states]),
        "right.hidden_1": pad_rows([s[1] for s in states]),
        "right.per_token_logps": pad_rows([log_probs(l, r) for l, r in zip(logits, rows)]),
    }
    selected = [(r, t) for r, n in enumerate(LENGTHS) for t in sorted({0, min(1, n - 1), n // 2, n - 1})]
    out["right.selected"] = torch.tensor(selected)
    out["right.logits"] = torch.stack([logits[r][t].float() for r, t in selected])
    return out


def gradients(model, rows):
    """Of the mean log-prob over every token that has one before it."""
    model.zero_grad()
    logps = [log_probs(model(input_ids=row[None], use_cache=False).logits[0], row) for row in rows if len(row) > 1]
    loss = torch.cat(logps).mean()
    loss.backward()
    return loss.detach(), {n: p.grad.float() for n, p in model.named_parameters()}


@torch.no_grad()
def greedy(model, prompt):
    """argmax without a cache, every token computed anew; and the least margin."""
    ids, margin = prompt, float("inf")
    for _ in range(NEW_TOKENS):
        best = forward(model, ids)[0][-1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[:1]])
    return ids[len(prompt):], margin


def expected_greedy(model, generator):
    prompts, tokens, margins = [], [], []
    for length in PROMPTS:
        for _ in range(ATTEMPTS):  # the first prompt with a clear and not too dull continuation
            prompt = torch.randint(VOCAB, (length,), generator=generator)
            new, margin = greedy(model, prompt)
            if margin > MARGIN and len(set(new.tolist())) >= DISTINCT:
                break
        else:
            raise RuntimeError(f"none of {ATTEMPTS} prompts of {length} tokens has a clear continuation")
        prompts.append(prompt)
        tokens.append(new)
        margins.append(margin)
    width = max(PROMPTS)
    ids = torch.stack([torch.cat([torch.zeros(width - len(p), dtype=torch.int64), p]) for p in prompts])
    mask = torch.stack([(torch.arange(width) >= width - len(p)).long() for p in prompts])
    # The same from transformers' own loop, with its cache and left padding.
    model.generation_config.eos_token_id = None
    generated = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS,
                               pad_token_id=0)
    assert torch.equal(generated[:, width:], torch.stack(tokens))
    return {"greedy.input_ids": ids, "greedy.attention_mask": mask, "greedy.new_tokens": torch.stack(tokens)}, margins


def without(model, config, change):
    other = copy.deepcopy(config)
    state = {k: torch.zeros_like(v) if k.endswith(change.get("zero", "none")) else v
             for k, v in model.state_dict().items()}
    for key, value in change.items():
        if key != "zero":
            setattr(other, key, value)
    changed = build(other)
    changed.load_state_dict(state)
    return changed


def worst(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in b if b[k].is_floating_point())


def make(name, entry, seed):
    generator = torch.Generator().manual_seed(seed)
    folder = save(name, entry, generator)
    model = load(folder)
    rows = [torch.randint(VOCAB, (n,), generator=generator) for n in LENGTHS]
    expected = expected_rows(model, rows)
    loss, grads = gradients(model, rows)
    expected["loss"] = loss
    for parameter, grad in grads.items():
        expected["grad_norm." + parameter] = grad.norm()
        if parameter in entry["gradients"]:
            expected["grad." + parameter] = grad.clone()

    for changes, least in ((entry["without"], MATTERS), (entry.get("without_much", []), MATTERS_A_LITTLE)):
        for change in changes:
            changed = expected_rows(without(model, entry["config"], change), rows)["right.logits"]
            by = (changed - expected["right.logits"]).abs().max().item()
            print(f"{name}: {change} changes a logit by {by:.3g}")
            assert by > least
    exact = load(folder, torch.float64)
    exact_grads = gradients(exact, rows)[1]
    noise = max(((grads[k] - exact_grads[k]).norm() / exact_grads[k].norm()).item() for k in grads)
    padded = model(input_ids=expected["right.input_ids"], attention_mask=expected["right.attention_mask"])
    padding = (torch.stack([padded.logits[r, t] for r, t in expected["right.selected"].tolist()])
               - expected["right.logits"]).abs().max().item()
    print(f"{name}: float64 differs by {worst(expected, expected_rows(exact, rows)):.2g}, gradients by {noise:.2g} "
          f"(relative L2); right padding by {padding:.2g}; largest logit {expected['right.logits'].abs().max():.2f}; "
          f"gradient norms from {min(g.norm() for g in grads.values()):.2g}")

    tokens, margins = expected_greedy(model, generator)
    print(f"{name}: greedy margins {[round(m, 4) for m in margins]}, {tokens['greedy.new_tokens'].tolist()}")
    expected.update(tokens)
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


@torch.no_grad()
def make_with_images():
    """The language model of gemma3 in a checkpoint that reads images too: what it says of text is the same."""
    # Without the cap, which Gemma3ForConditionalGeneration does not apply.
    capped = load(HERE / "gemma3")
    text = without(capped, capped.config, dict(final_logit_softcapping=None))
    text_config = json.loads((HERE / "gemma3" / "config.json").read_text()) | dict(final_logit_softcapping=None)
    text_config.pop("architectures")
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4)
    config = Gemma3Config(text_config=text_config, vision_config=vision, mm_tokens_per_image=1,
                          image_token_index=90, boi_token_index=91, eoi_token_index=92, eos_token_id=[1, 5])
    torch.manual_seed(SEED)
    model = Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    model.model.language_model.load_state_dict(text.model.state_dict())
    folder = HERE / "gemma3-images"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    ids = torch.arange(VOCAB - 6)[None, ::7]
    again = Gemma3ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    assert torch.equal(again(input_ids=ids).logits, text(input_ids=ids).logits)


def main():
    """make.py makes all, make.py NAME... these only."""
    wanted = sys.argv[1:] or [*SETS, "gemma3-images"]
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for i, (name, entry) in enumerate(SETS.items()):
        if name in wanted:
            torch.manual_seed(SEED)
            make(name, entry, SEED + i)
    if "gemma3-images" in wanted:
        make_with_images()
    for path in sorted(HERE.glob("*/*.safetensors")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"| `{path.relative_to(HERE)}` | {path.stat().st_size} | `{digest}` |")


if __name__ == "__main__":
    main()
