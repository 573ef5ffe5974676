// SPDX-License-Identifier: Apache-2.0
#include "ops/sample_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace sao::ops {
namespace {

// Vectors of the baseline instruction set, so that a draw does not depend on what the processor could do beyond it.
constexpr std::size_t W = 4;
using Vec = float __attribute__((vector_size(16)));
using VecU = float __attribute__((vector_size(16), aligned(4), may_alias));
using Int = std::int32_t __attribute__((vector_size(16)));
using Wide = double __attribute__((vector_size(32)));

constexpr std::size_t kSumBlock = 64;  // ids whose weights are summed together, for the walk of draw
constexpr int kMassShift = 19;         // float bits below a mass bucket: 16 buckets an octave
constexpr std::uint32_t kMassBuckets = (std::bit_cast<std::uint32_t>(1.0f) >> kMassShift) + 1;

// These are called for every logit: inlined, or the calls cost more than the work.
#define SAO_INLINE inline __attribute__((always_inline))
SAO_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
SAO_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }
SAO_INLINE Vec splat(float x) { return x - Vec{}; }

// exp for x <= 0 (Cephes expf); below -87.3 exactly 0. The same polynomial as in kernels_isa.cpp.
SAO_INLINE Vec exp_of_negative(Vec x) {
  const Vec low = splat(-87.3f);
  const Int underflow = x < low;
  x = x < low ? low : x;
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Int exponent = (reinterpret_cast<Int>(shifted) - 0x4B400000 + 127) << 23;
  const Vec result = p * reinterpret_cast<Vec>(exponent);
  return underflow ? Vec{} : result;
}

// The k-th largest value, by a buffer of 2k that is cut back to its k largest when full; -inf when fewer are finite.
float kth_largest(std::span<const float> z, std::size_t k, std::vector<float>& buffer) {
  const auto cut = [&] {
    std::nth_element(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(k - 1), buffer.end(),
                     std::greater<>());
    buffer.resize(k);
    return buffer[k - 1];
  };
  buffer.clear();
  buffer.reserve(std::min(2 * k, z.size()));
  float threshold = -std::numeric_limits<float>::infinity();
  for (const float value : z) {
    if (value <= threshold) continue;
    buffer.push_back(value);
    if (buffer.size() == 2 * k) threshold = cut();
  }
  return buffer.size() < k ? -std::numeric_limits<float>::infinity() : cut();
}

}  // namespace

float largest_of(std::span<const float> z) {
  constexpr float kFinite = std::numeric_limits<float>::max();
  Vec best = splat(-std::numeric_limits<float>::infinity());
  Int fine = Int{} - 1;
  std::size_t i = 0;
  for (; i + W <= z.size(); i += W) {
    const Vec v = load(z.data() + i);
    fine &= v <= kFinite;
    best = best > v ? best : v;
  }
  float largest = best[0];
  bool all_fine = fine[0] != 0;
  for (std::size_t lane = 1; lane < W; ++lane) {
    largest = std::max(largest, best[lane]);
    all_fine = all_fine && fine[lane] != 0;
  }
  for (; i < z.size(); ++i) {
    largest = std::max(largest, z[i]);
    all_fine = all_fine && z[i] <= kFinite;
  }
  return all_fine ? largest : std::numeric_limits<float>::quiet_NaN();
}

bool RowSampler::prepare(std::span<const float> z) {
  const float largest = largest_of(z);
  if (!std::isfinite(largest)) return false;
  best_ = static_cast<TokenId>(std::find(z.begin(), z.end(), largest) - z.begin());
  if (options_.temperature == 0.0) return true;

  float least = -std::numeric_limits<float>::infinity();
  const std::size_t k = static_cast<std::size_t>(options_.top_k);
  if (k > 0 && k < z.size()) least = kth_largest(z, k, largest_);

  // A temperature so small that its inverse overflows would turn 0 * inf into NaN.
  const float inverse = static_cast<float>(std::min(1.0 / options_.temperature, 1e30));
  weights_.resize(z.size());
  std::size_t i = 0;
  for (; i + W <= z.size(); i += W) {
    const Vec v = load(z.data() + i);
    store(weights_.data() + i, v >= least ? exp_of_negative((v - largest) * inverse) : Vec{});
  }
  if (i < z.size()) {
    float part[W] = {};
    std::copy(z.begin() + static_cast<std::ptrdiff_t>(i), z.end(), part);
    const Vec v = load(part);
    store(part, v >= least ? exp_of_negative((v - largest) * inverse) : Vec{});
    std::copy(part, part + (z.size() - i), weights_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (options_.top_p < 1.0) keep_top_p();
  if (options_.min_p > 0.0) {
    const float floor = static_cast<float>(options_.min_p);  // the largest weight is 1
    for (float& weight : weights_) weight = weight < floor ? 0.0f : weight;
  }
  sum_blocks();
  return true;
}

// Drops all but the smallest set, most likely first and among equals lowest id first, that reaches top_p of the mass.
void RowSampler::keep_top_p() {
  // Float bits order positive numbers: a histogram over their leading bits finds where the mass crosses top_p.
  masses_.assign(kMassBuckets, 0.0);
  const auto bucket_of = [](float weight) { return std::bit_cast<std::uint32_t>(weight) >> kMassShift; };
  double total = 0.0;
  for (const float weight : weights_) {
    masses_[bucket_of(weight)] += weight;
    total += weight;
  }
  const double goal = options_.top_p * total;
  double above = 0.0;  // mass of the buckets passed
  std::uint32_t bucket = kMassBuckets - 1;
  while (bucket > 0 && above + masses_[bucket] < goal) above += masses_[bucket--];
  if (bucket == 0) return;  // by rounding the goal lies beyond all weights

  // Inside that bucket, halve what may hold the last token kept.
  crossing_.clear();
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (bucket_of(weights_[i]) == bucket) crossing_.emplace_back(weights_[i], static_cast<TokenId>(i));
  }
  const auto likelier = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  auto begin = crossing_.begin(), end = crossing_.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, likelier);
    double half = 0.0;
    for (auto it = begin; it != middle; ++it) half += it->first;
    if (above + half >= goal) {
      end = middle;
    } else {
      above += half;
      begin = middle;
    }
  }
  const auto [floor, last] = *begin;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    const bool kept = weights_[i] > floor || (weights_[i] == floor && static_cast<TokenId>(i) <= last);
    weights_[i] = kept ? weights_[i] : 0.0f;
  }
}

void RowSampler::sum_blocks() {
  block_sums_.clear();
  total_ = 0.0;
  for (std::size_t begin = 0; begin < weights_.size(); begin += kSumBlock) {
    const std::size_t end = std::min(begin + kSumBlock, weights_.size());
    Wide lanes{};
    std::size_t i = begin;
    for (; i + W <= end; i += W) lanes += __builtin_convertvector(load(weights_.data() + i), Wide);
    double sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (; i < end; ++i) sum += weights_[i];
    block_sums_.push_back(sum);
    total_ += sum;
  }
}

TokenId RowSampler::draw(double uniform) const {
  if (options_.temperature == 0.0) return best_;
  const double target = uniform * total_;
  double before = 0.0;
  std::size_t block = 0;
  while (block + 1 < block_sums_.size() && before + block_sums_[block] <= target) before += block_sums_[block++];
  const std::size_t end = std::min((block + 1) * kSumBlock, weights_.size());
  std::size_t chosen = weights_.size();
  for (std::size_t i = block * kSumBlock; i < end; ++i) {
    if (weights_[i] == 0.0f) continue;
    chosen = i;  // stays when rounding leaves the sum of the block short of the target
    before += weights_[i];
    if (before > target) break;
  }
  return chosen < weights_.size() ? static_cast<TokenId>(chosen) : best_;
}

}  // namespace sao::ops
