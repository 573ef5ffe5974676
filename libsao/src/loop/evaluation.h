// SPDX-License-Identifier: Apache-2.0
// Comparisons as JSON.
#pragma once

#include "io/json.h"
#include "sao/eval/compare.h"
#include "sao/judge/health.h"

namespace sao::detail {

/// Shares between 0 and 1, lengths in characters.
OrderedJson comparison_to_json(const Comparison& comparison);
OrderedJson health_to_json(const JudgeHealth& health);

}  // namespace sao::detail
