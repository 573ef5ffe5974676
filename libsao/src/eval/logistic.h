// SPDX-License-Identifier: Apache-2.0
// The logistic function without overflow.
#pragma once

#include <algorithm>
#include <cmath>

namespace sao::detail {

/// 1 / (1 + exp(-x)).
inline double sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return x >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
}

/// log(1 + exp(x)).
inline double log1p_exp(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

}  // namespace sao::detail
