// SPDX-License-Identifier: Apache-2.0
// What an Engine takes in memory beside the model's weights, told before anything is loaded.
#pragma once

#include <cstdint>

#include "sao/generate/engine.h"
#include "sao/model/model_memory.h"

namespace sao {

/// One call of the engine: requests that are all alike.
struct EngineWork {
  std::int64_t requests = 1;
  std::int64_t samples = 1;        ///< of each request; 0 = its prompt is read only, as by next_token_log_probs
  std::int64_t prompt_tokens = 1;  ///< of each
  std::int64_t new_tokens = 1;     ///< of each sample at most
};

struct EngineMemory {
  MemoryParts parts = {};      ///< "packed weights", "KV cache", "step"
  std::int64_t sequences = 0;  ///< largest requests that the cache has room for at one time, up to max_batch
};

/// The most that the engine holds during the call. `free_bytes` is what the device has free beside the weights, of
/// which the cache takes half at most where options.cache_bytes is 0. What prompts share is not made use of, so a real
/// call may need less. Throws ResourceError for a request that does not fit at all.
EngineMemory engine_memory(const ModelConfig& config, at::ScalarType dtype, at::Device device,
                           const EngineOptions& options, const EngineWork& work, std::int64_t free_bytes);

}  // namespace sao
