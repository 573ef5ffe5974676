// SPDX-License-Identifier: Apache-2.0
// What a model takes in memory, told from its config before anything is loaded. Bytes of tensors; what programs,
// libraries and threads take beside them is not counted.
//   const auto config = sao::ModelConfig::read("gemma-2-2b-it");
//   sao::weight_bytes(config, at::kBFloat16) + sao::activation_bytes(config, at::kBFloat16, 8192, false)
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sao/model/config.h"

namespace sao {

/// One use of memory.
struct MemoryPart {
  std::string name = {};  ///< "weights", "KV cache", ...
  std::int64_t bytes = 0;

  bool operator==(const MemoryPart&) const = default;
};
using MemoryParts = std::vector<MemoryPart>;

/// The sum.
std::int64_t total_bytes(const MemoryParts& parts);

/// Of all weights; a tied output matrix once.
std::int64_t weight_bytes(const ModelConfig& config, at::ScalarType dtype);

/// Of the packed copies of the matrices that inference makes: on the CPU in float32, elsewhere none. `int8`: those of
/// CausalLM::with_int8_inference.
std::int64_t packed_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, bool int8 = false);

/// What a model that was loaded for inference (Purpose::kInference, kInt8Inference) holds of its weights beside these
/// copies: norms, and the embedding where they do not serve for it; off the CPU and float32 all weights.
std::int64_t unpacked_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, bool int8 = false);

/// The most that CausalLM::hidden holds at one time of `tokens` tokens in one pass with gradients off, its result
/// included (a larger pack is computed in several: kInferenceTokens); on the CPU with as many threads as LibTorch has
/// now.
std::int64_t inference_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, std::int64_t tokens);

/// What CausalLM::hidden with gradients on keeps of `tokens` tokens for backward, its result included. With activation
/// checkpointing a layer's input is all that is kept of it.
std::int64_t activation_bytes(const ModelConfig& config, at::ScalarType dtype, std::int64_t tokens, bool checkpointing);

/// The most that backward through a layer holds at one time beside these and the weights' gradients.
std::int64_t backward_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, std::int64_t tokens,
                            bool checkpointing);

}  // namespace sao
