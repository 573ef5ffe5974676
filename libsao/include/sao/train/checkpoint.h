// SPDX-License-Identifier: Apache-2.0
// When trainers write what they need to resume.
#pragma once

#include <cstdint>

#include "sao/base/options.h"

namespace sao {

/// Checkpoints are folders step-000100 with tensors.safetensors (parameters or their float32 masters, both moments,
/// reference log-probs) and state.json (step, options, data fingerprint), each written whole or not at all.
struct CheckpointOptions {
  std::int64_t every_steps = 0;  ///< 0 = only after the last step
  std::int64_t keep = 1;         ///< newest checkpoints that stay when the next step begins
};

template <class Visitor, OptionsOf<CheckpointOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("every_steps", options.every_steps, "steps between checkpoints; 0 = only at the end");
  visit("keep", options.keep, "how many of the newest checkpoints stay");
}

}  // namespace sao
