// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/engine_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "generate/memory.h"
#include "generate/scheduler.h"
#include "sao/base/error.h"

namespace sao {

EngineMemory engine_memory(const ModelConfig& config, at::ScalarType dtype, at::Device device,
                           const EngineOptions& options, const EngineWork& work, std::int64_t free_bytes) {
  validate(options);
  const std::int64_t block = KvCache::bytes_per_block(config, dtype);
  const detail::CacheNeed need = detail::cache_need_of_equal(
      work.requests, work.samples, work.prompt_tokens, work.new_tokens,
      {.max_batch = options.max_batch, .prefill_tokens = options.prefill_tokens, .stop_ids = {}});
  const std::int64_t most = (options.cache_bytes > 0 ? options.cache_bytes : free_bytes / 2) / block;
  if (need.least > most) {
    throw ResourceError(fmt::format(
        "engine: {} prompt tokens and {} new ones need {} bytes of KV cache, expected at most {}; raise cache_bytes",
        work.prompt_tokens, work.new_tokens, need.least * block, most * block));
  }
  const std::int64_t blocks = std::min(most, need.useful);
  const std::int64_t running = std::min(options.max_batch, work.requests * work.samples);
  const std::int64_t prefill = std::min(options.prefill_tokens, work.requests * work.prompt_tokens);
  // Rows whose logits are wanted: of running samples, and of the prompts that a step computes.
  const std::int64_t rows =
      running + std::max<std::int64_t>(1, prefill / std::max<std::int64_t>(1, work.prompt_tokens));
  const std::int64_t logits = std::min(rows, detail::most_logit_rows(config.vocab_size)) * config.vocab_size * 4;
  return {.parts = {{"packed weights", packed_bytes(config, dtype, device, options.int8_weights)},
                    {"KV cache", blocks * block},
                    {"step", inference_bytes(config, dtype, device, prefill + running) + logits}},
          .sequences = std::min(options.max_batch, blocks / need.least)};
}

}  // namespace sao
