// SPDX-License-Identifier: Apache-2.0
// Tensors of one number a row, in and out of the closed forms.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "sao/base/error.h"

namespace sao::detail {

/// The number of rows of a vector of log-prob sums. Throws InputError for anything else.
inline std::int64_t check_sums(const at::Tensor& tensor, const char* where, const char* name) {
  if (!tensor.defined() || tensor.dim() != 1 || tensor.size(0) == 0 || !tensor.is_floating_point()) {
    throw InputError(
        fmt::format("{}: {} is not a vector of log-prob sums, expected [B] floating point, B > 0", where, name));
  }
  return tensor.size(0);
}

inline std::vector<double> to_doubles(const at::Tensor& tensor, const char* where, const char* name,
                                      std::int64_t count) {
  if (!tensor.defined() || tensor.dim() != 1 || tensor.size(0) != count) {
    throw InputError(fmt::format("{}: {} [{}], expected [{}]: one number a row", where, name,
                                 tensor.defined() ? fmt::format("{}", fmt::join(tensor.sizes(), ", ")) : "undefined",
                                 count));
  }
  const at::Tensor values = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* data = values.const_data_ptr<double>();
  return {data, data + count};
}

inline void check_weight(double weight, const char* where, const char* what, std::int64_t index) {
  if (!(weight >= 0.0 && std::isfinite(weight))) {
    throw InputError(fmt::format("{}: weight of {} {} is {}, expected 0 or more", where, what, index, weight));
  }
}

/// The rows of [n, B] on the device and in the precision of `input`.
inline std::vector<at::Tensor> like_input(const at::Tensor& values, const at::Tensor& input) {
  return values.to(input.device(), input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).unbind(0);
}

/// `value` with derivative `slope` in `input`, which has gradients or not: x - x.detach() is 0 with slope 1.
inline at::Tensor with_slope(const at::Tensor& value, const at::Tensor& slope, const at::Tensor& input) {
  if (!at::GradMode::is_enabled() || !input.defined() || !input.requires_grad()) return value;
  return value + slope * (input - input.detach());
}

}  // namespace sao::detail
