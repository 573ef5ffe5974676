// SPDX-License-Identifier: Apache-2.0
#include "sao/base/statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "sao/base/error.h"

namespace sao {
namespace {

double sum_of_squared_deviations(std::span<const double> values, double center) {
  double sum = 0.0;
  for (const double value : values) sum += (value - center) * (value - center);
  return sum;
}

}  // namespace

double mean(std::span<const double> values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_deviation(std::span<const double> values) {
  if (values.size() < 2) return 0.0;
  return std::sqrt(sum_of_squared_deviations(values, mean(values)) / static_cast<double>(values.size() - 1));
}

double standard_error(std::span<const double> values) {
  if (values.size() < 2) return 0.0;
  return standard_deviation(values) / std::sqrt(static_cast<double>(values.size()));
}

double correlation(std::span<const double> x, std::span<const double> y) {
  if (x.size() != y.size()) throw InputError("correlation: sides of different length, expected one y for each x");
  if (x.size() < 2) return 0.0;
  const double mean_x = mean(x);
  const double mean_y = mean(y);
  const double xx = sum_of_squared_deviations(x, mean_x);
  const double yy = sum_of_squared_deviations(y, mean_y);
  const auto constant = [](std::span<const double> values) {
    return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
  };
  if (constant(x) || constant(y) || xx <= 0.0 || yy <= 0.0) return 0.0;
  double xy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) xy += (x[i] - mean_x) * (y[i] - mean_y);
  return std::clamp(xy / (std::sqrt(xx) * std::sqrt(yy)), -1.0, 1.0);
}

}  // namespace sao
