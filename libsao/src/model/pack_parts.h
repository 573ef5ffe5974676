// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "sao/model/packed_tokens.h"

namespace sao::detail {

/// The pack's sequences in their order, in packs of up to `most_tokens` tokens, or of one sequence that has more; those
/// that continue another stay with it. Views of the pack's tensors, without dropout.
std::vector<PackedTokens> parts_of(const PackedTokens& pack, std::int64_t most_tokens);

}  // namespace sao::detail
