// SPDX-License-Identifier: Apache-2.0
// Comparing tensors: one place that says by how much two results may differ. SAO_TOLERANCE_SCALE=0 shows true
// residuals.
#pragma once

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace sao::testing {

inline double tolerance_scale() {
  const char* text = std::getenv("SAO_TOLERANCE_SCALE");
  return text == nullptr ? 1.0 : std::atof(text);
}

/// |actual - expected| <= absolute + relative * |expected| everywhere, NaNs in the same places.
inline ::testing::AssertionResult close(const at::Tensor& actual, const at::Tensor& expected, double absolute,
                                        double relative = 0.0) {
  if (!actual.sizes().equals(expected.sizes())) {
    return ::testing::AssertionFailure() << "shapes differ: " << actual.sizes() << " against " << expected.sizes();
  }
  if (actual.numel() == 0) return ::testing::AssertionSuccess();
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble), e = expected.detach().to(at::kCPU, at::kDouble);
  if (!at::isnan(a).equal(at::isnan(e))) return ::testing::AssertionFailure() << "NaNs are not in the same places";
  const at::Tensor difference = at::nan_to_num((a - e).abs());
  const at::Tensor excess = difference - (absolute + relative * at::nan_to_num(e.abs())) * tolerance_scale();
  if (excess.max().item<double>() <= 0.0) return ::testing::AssertionSuccess();
  const std::int64_t at_index = excess.argmax().item<std::int64_t>();
  return ::testing::AssertionFailure() << fmt::format(
             "largest excess at flat index {} of {}: {} against {}; largest difference {:.3g}, allowed {:.3g} + {:.3g} "
             "x",
             at_index, actual.numel(), a.flatten()[at_index].item<double>(), e.flatten()[at_index].item<double>(),
             difference.max().item<double>(), absolute, relative);
}

/// |actual - expected|_2 / |expected|_2.
inline double relative_l2(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor e = expected.detach().to(at::kDouble);
  return (actual.detach().to(at::kDouble) - e).norm().item<double>() / e.norm().item<double>();
}

/// The same bits.
inline ::testing::AssertionResult identical(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes().equals(b.sizes()) && a.equal(b)) return ::testing::AssertionSuccess();
  return close(a, b, 0.0) ? ::testing::AssertionFailure() << "shapes or bits differ" : close(a, b, 0.0);
}

}  // namespace sao::testing
