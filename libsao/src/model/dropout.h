// SPDX-License-Identifier: Apache-2.0
// Dropout that is a function of what is dropped: the stream of the sequence, the matrix, the token's place in its
// sequence and the feature. The same whatever stands beside the sequence in a pack, and when activations are recomputed.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "sao/base/seed.h"

namespace sao::detail {

/// Streams of the sequences of a pack.
struct Dropout {
  std::vector<Seed> streams;
  at::Tensor starts;  ///< [S + 1] int64 on the CPU
};

/// What the inputs x [T, inputs] of the matrix `name` are multiplied by: 0 with probability `rate`, else
/// 1 / (1 - rate). Of x's shape, dtype and device; made on the CPU.
at::Tensor dropout_factors(const Dropout& dropout, const std::string& name, double rate, const at::Tensor& x);

}  // namespace sao::detail
