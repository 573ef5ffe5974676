# SPDX-License-Identifier: Apache-2.0
"""make.py FOLDER MODEL: a checkpoint with random weights in every system's format, and the workloads.

Writes, unless they are there, FOLDER/MODEL (a Hugging Face folder that libsao and transformers read), FOLDER/MODEL-ct2
(CTranslate2) and FOLDER/MODEL-{f32,q8_0}.gguf (llama.cpp), the last two not of models for a GPU; and always
FOLDER/workloads.json.
"""

import json
import math
import pathlib
import random
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True)
MODELS = {
    "g2-100m": lambda: Gemma2Config(vocab_size=32000, hidden_size=640, intermediate_size=2560, num_hidden_layers=12,
                                    num_attention_heads=8, num_key_value_heads=4, head_dim=80, query_pre_attn_scalar=80,
                                    max_position_embeddings=2048, sliding_window=1024, **IDS),
    "l3-300m": lambda: LlamaConfig(vocab_size=128256, hidden_size=1024, intermediate_size=3584, num_hidden_layers=16,
                                   num_attention_heads=16, num_key_value_heads=4, head_dim=64, rms_norm_eps=1e-5,
                                   max_position_embeddings=2048,
                                   rope_parameters=dict(rope_type="default", rope_theta=500000.0), **IDS),
    "g2-2b": lambda: Gemma2Config(vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
                                  num_attention_heads=8, num_key_value_heads=4, head_dim=256, query_pre_attn_scalar=256,
                                  max_position_embeddings=8192, sliding_window=4096, **IDS),
    "g2-9b": lambda: Gemma2Config(vocab_size=256000, hidden_size=3584, intermediate_size=14336, num_hidden_layers=42,
                                  num_attention_heads=16, num_key_value_heads=8, head_dim=256, query_pre_attn_scalar=256,
                                  max_position_embeddings=8192, sliding_window=4096, **IDS),
}
ON_GPU = {"g2-2b", "g2-9b"}


def write_tokenizer(folder: pathlib.Path, vocabulary: int) -> None:
    """The converters and libsao want one; no text is tokenized."""
    from tokenizers import Tokenizer, models
    tokenizer = Tokenizer(models.BPE({word(i): i for i in range(vocabulary)}, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(bos_token=word(1), eos_token=word(2), pad_token=word(0), unk_token=word(3))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="PreTrainedTokenizerFast", **names)))


def word(token: int) -> str:
    return f"<{token}>"


def write_gguf(model, config, path: pathlib.Path, kind: str) -> None:
    import gguf
    gemma = config.model_type == "gemma2"
    out = gguf.GGUFWriter(path, "gemma2" if gemma else "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(config.head_dim)
    out.add_value_length(config.head_dim)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(config.head_dim)
    if gemma:
        out.add_attn_logit_softcapping(config.attn_logit_softcapping)
        out.add_final_logit_softcapping(config.final_logit_softcapping)
        out.add_sliding_window(config.sliding_window)
    out.add_tokenizer_model("llama")
    out.add_token_list([word(i) if i < 4 or i >= 260 else f"<0x{i - 4:02X}>" for i in range(config.vocab_size)])
    out.add_token_scores([-float(i) for i in range(config.vocab_size)])
    out.add_token_types([3] * 3 + [2] + [6] * 256 + [1] * (config.vocab_size - 260))
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_add_bos_token(False)

    layer = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "post_attention_layernorm": "post_attention_norm" if gemma else "ffn_norm",
             "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for i in range(config.num_hidden_layers):
        names |= {f"model.layers.{i}.{theirs}.weight": f"blk.{i}.{ours}.weight" for theirs, ours in layer.items()}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        data = tensor.float().numpy()
        if gemma and "norm" in name:
            data = data + 1.0
        if not gemma and (".q_proj." in name or ".k_proj." in name):  # llama.cpp rotates neighbours, not halves
            heads = data.shape[0] // config.head_dim
            data = data.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(data.shape)
        data = numpy.ascontiguousarray(data, dtype=numpy.float32)
        if kind == "q8_0" and data.ndim == 2:
            packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(names[name], packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            out.add_tensor(names[name], data)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def workloads() -> dict:
    """W1: equal lengths. W2: two samples a prompt, unequal lengths, more samples than slots. W3: a judge's prompts with
    shared instructions, whose next-token distribution is asked for. W4: one sequence. check: greedy, for comparing."""
    draw = random.Random(1)
    tokens = lambda count: [draw.randrange(300, 31000) for _ in range(count)]
    prompts = [tokens(draw.randint(32, 256)) for _ in range(32)]
    lengths = lambda mean, cap: min(cap, 1 + int(math.log(1 - draw.random()) / math.log(1 - 1 / mean)))
    instructions = tokens(128)
    return {
        "W1": dict(batch=32, prompts=prompts, new_tokens=[64] * 32),
        "W2": dict(batch=32, prompts=[p for p in prompts for _ in range(2)], new_tokens=[lengths(48, 160) for _ in range(64)]),
        "W3": dict(batch=8, prompts=[instructions + tokens(384 + 2 * 128) for _ in range(16)], new_tokens=[], shared=128),
        "W4": dict(batch=1, prompts=[tokens(32)], new_tokens=[64]),
        "G1": dict(batch=256, prompts=[tokens(128) for _ in range(256)], new_tokens=[256] * 256),
        "G2": dict(batch=256, prompts=[tokens(512) for _ in range(256)], new_tokens=[512] * 256),
        "G3": dict(batch=256, prompts=[instructions + tokens(896) for _ in range(64)], new_tokens=[], shared=128),
        "check": dict(batch=8, prompts=[tokens(draw.randint(32, 128)) for _ in range(16)], new_tokens=[4] * 16),
    }


def main() -> None:
    folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workloads.json").write_text(json.dumps(workloads()))
    config, home = MODELS[name](), folder / name
    if not (home / "tokenizer.json").exists():
        torch.manual_seed(0)
        with torch.device("cuda" if name in ON_GPU else "cpu"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if name in ON_GPU else torch.float32)
        model.save_pretrained(home)
        write_tokenizer(home, min(config.vocab_size, 32000) if name in ON_GPU else config.vocab_size)
    if name in ON_GPU:
        return
    missing = [kind for kind in ("f32", "q8_0") if not (folder / f"{name}-{kind}.gguf").exists()]
    if missing:
        model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
        for kind in missing:
            write_gguf(model, model.config, folder / f"{name}-{kind}.gguf", kind)
    if not (folder / f"{name}-ct2").exists():
        from ctranslate2.converters import TransformersConverter
        TransformersConverter(str(home)).convert(str(folder / f"{name}-ct2"))


main()
