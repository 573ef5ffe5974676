// SPDX-License-Identifier: Apache-2.0
// A request as the scheduler sees it.
#pragma once

#include <cstdint>

#include "sao/base/tokens.h"

namespace sao::detail {

struct ScheduledRequest {
  TokenSpan prompt = {};
  std::int64_t samples = 0;
  std::int64_t max_new_tokens = 0;  ///< of each sample, within the model's context
  std::int64_t reads = 0;           ///< last tokens of the prompt whose next-token distributions are wanted
};

}  // namespace sao::detail
