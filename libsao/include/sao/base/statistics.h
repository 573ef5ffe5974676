// SPDX-License-Identifier: Apache-2.0
// Small statistics used by judge health, evaluation and reports.
#pragma once

#include <span>

namespace sao {

/// Arithmetic mean; NaN when empty.
double mean(std::span<const double> values);

/// Sample standard deviation (ddof = 1); 0 for fewer than two values.
double standard_deviation(std::span<const double> values);

/// standard_deviation / sqrt(n); 0 for fewer than two values.
double standard_error(std::span<const double> values);

/// Pearson correlation; 0 when either side is constant or there are fewer than two values.
double correlation(std::span<const double> x, std::span<const double> y);

}  // namespace sao
