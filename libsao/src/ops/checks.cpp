// SPDX-License-Identifier: Apache-2.0
#include "ops/checks.h"

#include <ATen/ATen.h>

namespace sao::ops {
namespace {

template <class T>
void check_values(std::string_view where, std::string_view what, const at::Tensor& values, std::int64_t end) {
  const at::Tensor row = values.contiguous();
  const T* value = row.const_data_ptr<T>();
  for (std::int64_t i = 0; i < row.numel(); ++i) {
    if (value[i] < 0 || value[i] >= end) {
      throw InputError(fmt::format("{}: {} {} at place {}, expected 0 to {}", where, what, value[i], i, end - 1));
    }
  }
}

}  // namespace

void check_range(std::string_view where, std::string_view what, const at::Tensor& values, std::int64_t end) {
  if (values.scalar_type() != at::kLong && values.scalar_type() != at::kInt) {
    throw InputError(fmt::format("{}: {} {}, expected integers", where, what, describe(values)));
  }
  if (!values.device().is_cpu()) return;
  if (values.scalar_type() == at::kLong) return check_values<std::int64_t>(where, what, values, end);
  check_values<std::int32_t>(where, what, values, end);
}

void check_starts(std::string_view where, const at::Tensor& starts, std::int64_t tokens) {
  if (starts.dim() != 1 || starts.scalar_type() != at::kLong || starts.size(0) < 1 || !starts.is_contiguous()) {
    throw InputError(fmt::format("{}: starts {}, expected [S + 1] int64", where, describe(starts)));
  }
  if (!starts.device().is_cpu()) return;
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  const std::int64_t sequences = starts.size(0) - 1;
  bool rises = start[0] == 0 && start[sequences] == tokens;
  for (std::int64_t s = 0; s < sequences; ++s) rises = rises && start[s] < start[s + 1];
  if (!rises) {
    throw InputError(fmt::format("{}: starts {}, expected numbers that rise from 0 to {}, the tokens", where,
                                 fmt::join(start, start + std::min<std::int64_t>(sequences + 1, 20), ", "), tokens));
  }
}

}  // namespace sao::ops
