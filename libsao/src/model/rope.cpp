// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sao::detail {
namespace {

// theta^(2 i / dim), i = 0 .. dim / 2 - 1
at::Tensor wave_lengths(double theta, std::int64_t dim) {
  return at::pow(at::Scalar(theta), at::arange(0, dim, 2, at::kLong).to(at::kFloat) / dim);
}

// Long waves are slowed by the factor, short ones kept, those between blended.
at::Tensor llama3(const at::Tensor& inverse, const RopeScaling& s) {
  const double context = static_cast<double>(s.original_max_position_embeddings);
  const at::Tensor wavelength = 2.0 * std::numbers::pi / inverse;
  const at::Tensor smooth = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  const at::Tensor smoothed = (1.0 - smooth) * inverse / s.factor + smooth * inverse;
  const at::Tensor low = wavelength > context / s.low_freq_factor;
  const at::Tensor high = wavelength < context / s.high_freq_factor;
  return at::where(low, inverse / s.factor, at::where(high, inverse, smoothed));
}

// YaRN (arXiv:2309.00071): frequencies that turn more than beta_fast times in the old context are kept, those that turn
// less than beta_slow times are divided by the factor, with a linear ramp between.
at::Tensor yarn(const at::Tensor& lengths, double theta, const RopeScaling& s) {
  const std::int64_t half = lengths.size(0), dim = 2 * half;
  const auto index_of = [&](double turns) {
    const double context = static_cast<double>(s.original_max_position_embeddings);
    return static_cast<double>(dim) * std::log(context / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(theta));
  };
  double low = index_of(s.beta_fast), high = index_of(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = at::clamp((at::arange(half, at::kFloat) - low) / (high - low), 0, 1);
  const at::Tensor kept = 1.0 - ramp;
  return 1.0 / (s.factor * lengths) * (1.0 - kept) + 1.0 / lengths * kept;
}

RotaryTable rotary_table(const at::Tensor& frequencies, double attention_factor, std::int64_t positions) {
  const at::Tensor index = at::arange(positions, frequencies.options());
  const at::Tensor angles = index.unsqueeze(1) * frequencies.unsqueeze(0);
  return {at::cos(angles) * attention_factor, at::sin(angles) * attention_factor};
}

}  // namespace

at::Tensor inverse_frequencies(const ModelConfig& c) {
  const at::Tensor lengths = wave_lengths(c.rope_theta, c.rotary_dim());
  const RopeScaling& s = c.rope_scaling;
  if (s.rope_type == "linear") return 1.0 / lengths / s.factor;
  if (s.rope_type == "llama3") return llama3(1.0 / lengths, s);
  if (s.rope_type == "yarn") return yarn(lengths, c.rope_theta, s);
  if (s.rope_type == "longrope") return 1.0 / (at::tensor(s.short_factor, at::kFloat) * lengths);
  return 1.0 / lengths;
}

RotaryTables rotary_tables(const ModelConfig& c, std::int64_t positions, at::Device device) {
  const at::NoGradGuard no_grad;
  RotaryTables tables;
  tables.full = rotary_table(inverse_frequencies(c).to(device), c.rope_scaling.attention_factor, positions);
  tables.sliding = tables.full;
  if (c.sliding_rope_theta > 0.0) {
    const at::Tensor frequencies = 1.0 / wave_lengths(c.sliding_rope_theta, c.rotary_dim());
    tables.sliding = rotary_table(frequencies.to(device), 1.0, positions);
  }
  return tables;
}

}  // namespace sao::detail
