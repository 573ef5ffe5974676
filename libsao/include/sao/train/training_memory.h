// SPDX-License-Identifier: Apache-2.0
// What a Trainer takes in memory beside the policy's weights, told before anything is loaded.
#pragma once

#include <cstdint>

#include "sao/model/model_memory.h"
#include "sao/train/trainer.h"

namespace sao {

/// The longest pair.
struct PairShape {
  std::int64_t prompt_tokens = 1;
  std::int64_t response_tokens = 1;  ///< of each response
};

/// The most that a trainer of preference pairs holds at one time beside the policy's weights, of a model whose weights
/// are all trained: "optimizer", and whichever is more of the reference's log-probs ("reference weights", "packed
/// weights", "forward pass") and a step ("gradients", "activations", "output matrix": logits and its gradient).
/// `reference_given`: a model of its own is passed to the trainer. Micro-batches are taken to be as full of these pairs
/// as the options allow.
MemoryParts training_memory(const ModelConfig& config, at::ScalarType dtype, at::Device device,
                            const TrainerOptions& options, const PairShape& longest, bool reference_given = false);

}  // namespace sao
