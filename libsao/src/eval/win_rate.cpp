// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/win_rate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "eval/logistic.h"
#include "eval/percentile.h"
#include "sao/base/error.h"
#include "sao/base/statistics.h"

namespace sao {
namespace {

using Eigen::Matrix2d;
using Eigen::MatrixX2d;
using Eigen::Vector2d;
using Eigen::VectorXd;

constexpr double kRidge = 1e-6;

void check_same_size(std::size_t preferences, std::size_t model, std::size_t baseline) {
  if (preferences != model || preferences != baseline) {
    throw InputError(fmt::format("win rate: {} preferences, {} and {} lengths, expected as many of each", preferences,
                                 model, baseline));
  }
}

void check_preference(double preference, std::size_t i) {
  if (!std::isnan(preference) && !(preference >= 0.0 && preference <= 1.0)) {
    throw InputError(fmt::format("preferences: number {} is {}, expected 0 to 1", i, preference));
  }
}

void check_length(double length, std::size_t i) {
  if (!(length >= 0.0 && std::isfinite(length))) {
    throw InputError(fmt::format("lengths: number {} is {}, expected 0 or more", i, length));
  }
}

/// Preferences and length differences of the prompts that have a verdict.
struct Rows {
  std::vector<double> preference = {};
  std::vector<double> difference = {};  // baseline - model
};

struct Fit {
  Vector2d coefficients = Vector2d::Zero();  // length, intercept
  Matrix2d covariance = Matrix2d::Zero();    // sandwich
};

/// Logistic regression on [tanh(difference / sd), 1] with soft labels.
Fit fit(const Rows& rows, bool with_covariance) {
  const auto n = static_cast<Eigen::Index>(rows.preference.size());
  const double sd = standard_deviation(rows.difference);
  MatrixX2d x(n, 2);
  VectorXd y(n);
  for (Eigen::Index i = 0; i < n; ++i) {
    const auto row = static_cast<std::size_t>(i);
    x(i, 0) = sd > 0.0 ? std::tanh(rows.difference[row] / sd) : 0.0;
    x(i, 1) = 1.0;
    y(i) = rows.preference[row];
  }

  Fit result;
  Vector2d& w = result.coefficients;
  const auto loss = [&](const Vector2d& v) {
    double sum = kRidge * v.squaredNorm() / 2.0;
    for (Eigen::Index i = 0; i < n; ++i) sum += detail::log1p_exp(x.row(i).dot(v)) - y(i) * x.row(i).dot(v);
    return sum;
  };
  Matrix2d hessian = Matrix2d::Zero();
  constexpr int kMaxSteps = 200;
  double value = loss(w);
  for (int step = 0; step < kMaxSteps; ++step) {
    Vector2d gradient = kRidge * w;
    hessian = kRidge * Matrix2d::Identity();
    for (Eigen::Index i = 0; i < n; ++i) {
      const double p = detail::sigmoid(x.row(i).dot(w));
      gradient += (p - y(i)) * x.row(i).transpose();
      hessian += p * (1.0 - p) * x.row(i).transpose() * x.row(i);
    }
    const Vector2d newton = -hessian.ldlt().solve(gradient);
    double scale = 1.0;
    double next = loss(w + newton);
    while (!(next <= value + 1e-12 * std::max(1.0, std::abs(value))) && scale > 1e-10) {
      scale /= 2.0;
      next = loss(w + scale * newton);
    }
    w += scale * newton;
    value = next;
    if (newton.cwiseAbs().maxCoeff() < 1e-10) break;
  }
  if (with_covariance) {
    Matrix2d scatter = Matrix2d::Zero();
    for (Eigen::Index i = 0; i < n; ++i) {
      const double residual = y(i) - detail::sigmoid(x.row(i).dot(w));
      scatter += residual * residual * x.row(i).transpose() * x.row(i);
    }
    const Matrix2d inverse = hessian.inverse();
    result.covariance = inverse * scatter * inverse;
  }
  return result;
}

/// The quantile of the standard normal law, by bisection of its distribution function.
double normal_quantile(double probability) {
  double low = -40.0, high = 40.0;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2.0;
    (std::erfc(-middle / std::sqrt(2.0)) / 2.0 < probability ? low : high) = middle;
  }
  return (low + high) / 2.0;
}

}  // namespace

WinRate win_rate(std::span<const double> preferences) {
  WinRate result;
  std::vector<double> values, discrete;
  for (std::size_t i = 0; i < preferences.size(); ++i) {
    const double p = preferences[i];
    check_preference(p, i);
    if (std::isnan(p)) continue;
    values.push_back(p);
    discrete.push_back(p > 0.5 ? 1.0 : p < 0.5 ? 0.0 : 0.5);
    ++(p > 0.5 ? result.wins : p < 0.5 ? result.losses : result.ties);
  }
  result.n = static_cast<std::int64_t>(values.size());
  if (values.empty()) return result;
  result.win_rate = mean(values);
  result.standard_error = standard_error(values);
  result.discrete_win_rate = mean(discrete);
  return result;
}

WinRate equal_length_win_rate(std::span<const double> preferences, std::span<const double> model_lengths,
                              std::span<const double> baseline_lengths, double tolerance) {
  check_same_size(preferences.size(), model_lengths.size(), baseline_lengths.size());
  if (!(tolerance >= 0.0 && tolerance <= 1.0)) {
    throw InputError(fmt::format("tolerance: {}, expected 0 to 1", tolerance));
  }
  std::vector<double> equal;
  for (std::size_t i = 0; i < preferences.size(); ++i) {
    check_length(model_lengths[i], i);
    check_length(baseline_lengths[i], i);
    const double longer = std::max(model_lengths[i], baseline_lengths[i]);
    if (std::abs(model_lengths[i] - baseline_lengths[i]) <= tolerance * longer) equal.push_back(preferences[i]);
  }
  return win_rate(equal);
}

void validate(const LengthControlOptions& options) {
  std::vector<std::string> problems;
  if (options.bootstrap < 0) problems.push_back(fmt::format("bootstrap: {}, expected 0 or more", options.bootstrap));
  if (!(options.confidence > 0.0 && options.confidence < 1.0)) {
    problems.push_back(fmt::format("confidence: {}, expected between 0 and 1", options.confidence));
  }
  if (!problems.empty()) throw InputError(fmt::format("LengthControlOptions: {}", fmt::join(problems, "; ")));
}

LengthControlledWinRate length_controlled_win_rate(std::span<const double> preferences,
                                                   std::span<const double> model_lengths,
                                                   std::span<const double> baseline_lengths,
                                                   const LengthControlOptions& options) {
  check_same_size(preferences.size(), model_lengths.size(), baseline_lengths.size());
  validate(options);
  Rows rows;
  for (std::size_t i = 0; i < preferences.size(); ++i) {
    check_preference(preferences[i], i);
    check_length(model_lengths[i], i);
    check_length(baseline_lengths[i], i);
    if (std::isnan(preferences[i])) continue;
    rows.preference.push_back(preferences[i]);
    rows.difference.push_back(baseline_lengths[i] - model_lengths[i]);
  }
  LengthControlledWinRate result;
  const std::size_t n = rows.preference.size();
  result.n = static_cast<std::int64_t>(n);
  if (n == 0) return result;

  const Fit whole = fit(rows, /*with_covariance=*/true);
  result.length_coefficient = whole.coefficients(0);
  result.intercept = whole.coefficients(1);
  result.win_rate = detail::sigmoid(result.intercept);
  result.standard_error = result.win_rate * (1.0 - result.win_rate) * std::sqrt(std::max(0.0, whole.covariance(1, 1)));

  const double tail = (1.0 - options.confidence) / 2.0;
  if (options.bootstrap == 0) {
    const double half_width = normal_quantile(1.0 - tail) * result.standard_error;
    result.low = std::max(0.0, result.win_rate - half_width);
    result.high = std::min(1.0, result.win_rate + half_width);
    return result;
  }
  std::vector<double> rates;
  for (std::int64_t resample = 0; resample < options.bootstrap; ++resample) {
    const Seed seed = options.seed.fork(static_cast<std::uint64_t>(resample));
    Rows drawn;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint64_t row = uniform_below(seed, i, n);
      drawn.preference.push_back(rows.preference[row]);
      drawn.difference.push_back(rows.difference[row]);
    }
    rates.push_back(detail::sigmoid(fit(drawn, /*with_covariance=*/false).coefficients(1)));
  }
  std::sort(rates.begin(), rates.end());
  result.low = detail::percentile(rates, tail);
  result.high = detail::percentile(rates, 1.0 - tail);
  return result;
}

}  // namespace sao
