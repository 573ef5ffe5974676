// SPDX-License-Identifier: Apache-2.0
// Checks of what callers hand to the ops. What tensors hold is looked at on the CPU only: on a GPU that would wait.
#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "sao/base/error.h"

namespace sao::ops {

/// "[4, 2, 16] Float", for messages.
inline std::string describe(const at::Tensor& x) {
  if (!x.defined()) return "undefined";
  return fmt::format("[{}] {}", fmt::join(x.sizes(), ", "), at::toString(x.scalar_type()));
}

/// Throws InputError unless the tensor of int64 or int32 holds numbers from 0 to `end` - 1 only.
void check_range(std::string_view where, std::string_view what, const at::Tensor& values, std::int64_t end);

/// Throws InputError unless `starts` is [S + 1] int64 and rises from 0 to `tokens`.
void check_starts(std::string_view where, const at::Tensor& starts, std::int64_t tokens);

}  // namespace sao::ops
