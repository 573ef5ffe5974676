// SPDX-License-Identifier: Apache-2.0
// Whether weights are numbers: NaN or infinities in a checkpoint are damage, and training or sampling with them says
// nothing about it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace sao::detail {

struct NotFinite {
  double value = 0.0;
  std::vector<std::int64_t> index = {};  ///< in the tensor
};

/// The first NaN or infinity of a dense CPU tensor of a floating dtype of at most 64 bits; nothing where all are
/// finite. Reads every bit pattern once, at the speed of memory.
std::optional<NotFinite> find_not_finite(const at::Tensor& tensor);

}  // namespace sao::detail
