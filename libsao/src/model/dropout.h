// SPDX-License-Identifier: Apache-2.0
// Dropout that is a function of what is dropped: the seed, the tokens up to the one in question, the matrix and the
// feature. The same whatever stands beside a sequence in a pack, whether its prompt is shared, and when activations are
// computed again.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "sao/base/seed.h"
#include "sao/model/packed_tokens.h"

namespace sao::detail {

/// A stream for every token of a pack.
using Dropout = std::vector<Seed>;

/// Streams from `tokens.dropout`, which must be there: the seed forked by every token of the prefix in turn.
Dropout dropout_streams(const PackedTokens& tokens);

/// What the inputs x [T, inputs] of the matrix `name` are multiplied by: 0 with probability `rate`, else
/// 1 / (1 - rate). Of x's shape, dtype and device; made on the CPU.
at::Tensor dropout_factors(const Dropout& streams, const std::string& name, double rate, const at::Tensor& x);

}  // namespace sao::detail
