// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <numbers>

namespace sao::detail {

at::Tensor inverse_frequencies(const ModelConfig& c) {
  const at::Tensor exponents = at::arange(0, c.head_dim, 2, at::kLong).to(at::kFloat) / c.head_dim;
  at::Tensor inverse = 1.0 / at::pow(at::Scalar(c.rope_theta), exponents);
  const RopeScaling& s = c.rope_scaling;
  if (s.rope_type == "linear") return inverse / s.factor;
  if (s.rope_type == "llama3") {
    const double context = static_cast<double>(s.original_max_position_embeddings);
    const at::Tensor wavelength = 2.0 * std::numbers::pi / inverse;
    const at::Tensor smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    const at::Tensor smoothed = (1.0 - smooth) * inverse / s.factor + smooth * inverse;
    const at::Tensor low = wavelength > context / s.low_freq_factor;
    const at::Tensor high = wavelength < context / s.high_freq_factor;
    return at::where(low, inverse / s.factor, at::where(high, inverse, smoothed));
  }
  return inverse;
}

RotaryTable rotary_table(const at::Tensor& frequencies, std::int64_t positions) {
  const at::NoGradGuard no_grad;
  const at::Tensor index = at::arange(positions, frequencies.options());
  const at::Tensor angles = index.unsqueeze(1) * frequencies.unsqueeze(0);
  return {at::cos(angles), at::sin(angles)};
}

}  // namespace sao::detail
