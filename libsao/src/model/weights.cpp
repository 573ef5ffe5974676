// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <fmt/format.h>

#include <initializer_list>

namespace sao::detail {

std::vector<at::Tensor> LayerWeights::all() const {
  std::vector<at::Tensor> list;
  for (const at::Tensor& norm : {input_norm, q_norm, k_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm}) {
    if (norm.defined()) list.push_back(norm);
  }
  for (const Projection* projection : {&qkv, &o, &gate_up, &down}) append_tensors(*projection, list);
  return list;
}

std::vector<Slot> slots(const ModelConfig& c, Weights& w) {
  const std::int64_t H = c.hidden_size, I = c.intermediate_size;
  const std::int64_t q_width = c.num_attention_heads * c.head_dim, kv_width = c.num_key_value_heads * c.head_dim;
  std::vector<Slot> list;
  list.push_back({"model.embed_tokens.weight", {c.vocab_size, H}, &w.embedding, Initial::kNormal});
  w.layers.resize(static_cast<std::size_t>(c.num_hidden_layers));
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    LayerWeights& layer = w.layers[i];
    const std::string prefix = fmt::format("model.layers.{}.", i);
    const auto norm = [&](const char* name, std::int64_t width, at::Tensor* tensor) {
      list.push_back({prefix + name + ".weight", {width}, tensor, Initial::kIdentity});
    };
    struct Part {
      const char* name;
      std::int64_t outputs;
    };
    const auto projection = [&](Projection& maps, std::int64_t inputs, bool bias, std::initializer_list<Part> parts) {
      maps.resize(parts.size());
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const auto& [name, outputs] = parts.begin()[p];
        maps[p].name = prefix + name;
        list.push_back({maps[p].name + ".weight", {outputs, inputs}, &maps[p].weight, Initial::kNormal});
        if (bias) list.push_back({maps[p].name + ".bias", {outputs}, &maps[p].bias, Initial::kZero});
      }
    };
    norm("input_layernorm", H, &layer.input_norm);
    if (c.fused_projections) {
      projection(layer.qkv, H, c.query_key_value_bias, {{"self_attn.qkv_proj", q_width + 2 * kv_width}});
    } else {
      projection(layer.qkv, H, c.query_key_value_bias,
                 {{"self_attn.q_proj", q_width}, {"self_attn.k_proj", kv_width}, {"self_attn.v_proj", kv_width}});
    }
    if (c.query_key_norm) {
      norm("self_attn.q_norm", c.head_dim, &layer.q_norm);
      norm("self_attn.k_norm", c.head_dim, &layer.k_norm);
    }
    projection(layer.o, q_width, c.attention_output_bias, {{"self_attn.o_proj", H}});
    norm("post_attention_layernorm", H, &layer.post_attention_norm);
    if (c.post_norms) {
      norm("pre_feedforward_layernorm", H, &layer.pre_mlp_norm);
      norm("post_feedforward_layernorm", H, &layer.post_mlp_norm);
    }
    if (c.fused_projections) {
      projection(layer.gate_up, H, c.mlp_bias, {{"mlp.gate_up_proj", 2 * I}});
    } else {
      projection(layer.gate_up, H, c.mlp_bias, {{"mlp.gate_proj", I}, {"mlp.up_proj", I}});
    }
    projection(layer.down, I, c.mlp_bias, {{"mlp.down_proj", H}});
  }
  list.push_back({"model.norm.weight", {H}, &w.final_norm, Initial::kIdentity});
  if (!c.tie_word_embeddings) list.push_back({"lm_head.weight", {c.vocab_size, H}, &w.output, Initial::kNormal});
  return list;
}

PackedLayer pack(const LayerWeights& weights, ops::WeightFormat format) {
  return {.qkv = pack(weights.qkv, format),
          .o = pack(weights.o, format),
          .gate_up = pack(weights.gate_up, format),
          .down = pack(weights.down, format)};
}

PackedModel pack(const Weights& weights, ops::WeightFormat format) {
  PackedModel packed;
  for (const LayerWeights& layer : weights.layers) packed.layers.push_back(pack(layer, format));
  packed.output = ops::PackedWeight::pack({&weights.output, 1}, {}, format);
  return packed;
}

void drop_matrices(LayerWeights& weights) {
  for (Projection* projection : {&weights.qkv, &weights.o, &weights.gate_up, &weights.down}) {
    for (Linear& linear : *projection) linear.weight = linear.bias = at::Tensor();
  }
}

}  // namespace sao::detail

namespace sao {

std::int64_t ModelConfig::parameter_count() const {
  detail::Weights empty;
  std::int64_t count = 0;
  for (const detail::Slot& slot : detail::slots(*this, empty)) {
    std::int64_t numbers = 1;
    for (const std::int64_t size : slot.shape) numbers *= size;
    count += numbers;
  }
  return count;
}

}  // namespace sao
