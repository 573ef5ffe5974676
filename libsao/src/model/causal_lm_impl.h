// SPDX-License-Identifier: Apache-2.0
// What a CausalLM holds, for the two files that implement it: causal_lm.cpp computes, checkpoint.cpp loads and saves.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "model/dtype.h"
#include "model/rope.h"
#include "model/weights.h"
#include "sao/model/causal_lm.h"
#include "sao/ops/attention.h"

namespace sao {

struct CausalLM::Impl {
  ModelConfig config;
  std::string base_json;  // config.json as read; empty for a new model
  detail::Weights weights;
  NamedTensors parameters;          // without those of adapters
  std::optional<LoraAdapter> lora;  // whose tensors the weights' linears hold
  NamedTensors lora_parameters;
  std::shared_ptr<Impl> base;  // that the adapters stand on
  bool activation_checkpointing = false;
  // Shared by all handles on the weights.
  std::shared_ptr<std::int64_t> version = std::make_shared<std::int64_t>(0);
  ops::WeightFormat packed_format = ops::WeightFormat::kFloat32;
  bool inference_only = false;  // the matrices are in the packed copies alone, which stay

  // What fill_slots will keep. Throws InputError as with_int8_inference.
  void set_purpose(Purpose purpose, at::Device device, at::ScalarType dtype);
  // Makes the weights: `fill` sets the tensor of each slot in turn, or leaves it undefined where the model will not be
  // used. Of a model for inference only, layers are packed, and their matrices let go, as they become whole.
  void fill_slots(const std::function<void(const detail::Slot&)>& fill);
  // After config and weights are there.
  void finish();
  // Throws InputError where the model is for inference only.
  void need_weights(const char* caller) const;

  at::Device device() const { return weights.final_norm.device(); }

  // Cosines and sines of positions 0 .. positions - 1 at least, and those of them that a layer takes.
  detail::RotaryTables rotary_tables(std::int64_t positions);
  const detail::RotaryTable& rotary_of(const detail::RotaryTables& tables, std::size_t layer) const;

  // The packed weights for inference, made anew when weights changed; null where the kernel does not apply.
  std::shared_ptr<const detail::PackedModel> packed();
  void drop_packed();

  bool differentiable(const at::Tensor& hidden) const;
  ops::AttentionOptions attention_options(std::size_t layer) const;

  void check_ids(const at::Tensor& ids, std::int64_t expected, const char* of) const;
  void check_context(std::int64_t longest) const;

  at::Tensor embed(const at::Tensor& ids, const detail::PackedModel* packed) const;
  at::Tensor final_norm(const at::Tensor& h) const;
  // Runs all layers over a pack; `observe` sees the embeddings and every layer's output.
  at::Tensor run(const PackedTokens& tokens, const std::function<void(const at::Tensor&)>& observe);

 private:
  std::mutex mutex_;  // guards what is made on demand below
  detail::RotaryTables rope_;
  std::int64_t rope_positions_ = 0;
  std::shared_ptr<const detail::PackedModel> packed_model_;  // held by every pass that uses it
  std::int64_t packed_stamp_ = -1;
};

}  // namespace sao
