// SPDX-License-Identifier: Apache-2.0
// Python's random.Random, so that few-shot examples are those that lm-evaluation-harness draws.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sao::detail {

/// The Mersenne Twister MT19937 as CPython seeds and reads it (Modules/_randommodule.c, Lib/random.py).
class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed);

  /// Lib/random.py: Random.sample of range(n): k different numbers below n, in the order of their drawing.
  std::vector<std::size_t> sample(std::size_t n, std::size_t k);

 private:
  std::uint32_t next();
  std::size_t below(std::size_t n);

  static constexpr std::size_t kSize = 624;
  std::array<std::uint32_t, kSize> state_ = {};
  std::size_t position_ = kSize;
};

}  // namespace sao::detail
