// SPDX-License-Identifier: Apache-2.0
// What a run will need, stage by stage, before it is started.
//   const sao::MemoryPlan plan = sao::plan_memory(settings);
//   for (const sao::StageMemory& stage : plan.stages) fmt::print("{} {}\n", stage.name, sao::total_bytes(stage.parts));
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sao/loop/round.h"
#include "sao/model/model_memory.h"

namespace sao {

struct StageMemory {
  std::string name = {};       ///< of the run's stages, without the round
  MemoryParts parts = {};      ///< "weights" first
  std::int64_t sequences = 0;  ///< of a stage that samples: that its KV cache has room for at one time
};

struct MemoryPlan {
  std::vector<StageMemory> stages = {};  ///< of a round, and of the evaluation before the first
  std::int64_t available = 0;            ///< free on the device now; 0 = it cannot be known
};

/// Takes every text as long as the settings let it be: prompts and answers of max_new_tokens, the longest persona, what
/// fits the model's context; and the micro-batches as full. So a run needs at most about this much of its device, and
/// this much when texts are that long (docs/performance.md has both side by side). The program itself, its libraries
/// and threads come on top: a hundred MB or more. On the CPU "pieces between" is what the C library keeps of freed
/// matrices while an engine's steps follow each other: as much as a step, as measured, not counted. Reads the models'
/// configs and tokenizers, and the personas; no weights. Throws InputError as Run does for settings and files,
/// ResourceError where one request is too large for engine.cache_bytes.
MemoryPlan plan_memory(const RunSettings& settings);

}  // namespace sao
