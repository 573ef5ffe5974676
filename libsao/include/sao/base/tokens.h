// SPDX-License-Identifier: Apache-2.0
// Token ids: what travels from the tokenizer to the sampler, the judge and the loss.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sao {

using TokenId = std::int32_t;
using TokenIds = std::vector<TokenId>;
using TokenSpan = std::span<const TokenId>;

}  // namespace sao
