// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "sao/base/statistics.h"
#include "sao/eval/multiple_choice.h"

namespace sao::detail {

/// The mean and its standard error; zeros without values.
inline Share share_of(std::span<const double> values) {
  return values.empty() ? Share{} : Share{.value = mean(values), .standard_error = standard_error(values)};
}

}  // namespace sao::detail
