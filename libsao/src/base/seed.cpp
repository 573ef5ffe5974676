// SPDX-License-Identifier: Apache-2.0
#include "sao/base/seed.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "base/fnv.h"
#include "base/philox.h"
#include "sao/base/error.h"

namespace sao {
namespace {

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

// SplitMix64's finaliser (Stafford's variant 13): a bijection in which every input bit moves every output bit.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace

Seed Seed::fork(std::string_view name) const { return {mix(mix(value + kGolden) ^ detail::fnv1a(name))}; }

// Names and indices start from different constants, so that no index repeats the stream of a name by construction.
Seed Seed::fork(std::uint64_t index) const { return {mix(mix(value + 2 * kGolden) ^ mix(index + 3 * kGolden))}; }

std::uint64_t random_bits(Seed seed, std::uint64_t position) {
  const detail::PhiloxCounter words =
      detail::philox4x32_10({static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), 0, 0},
                            {static_cast<std::uint32_t>(seed.value), static_cast<std::uint32_t>(seed.value >> 32)});
  return (static_cast<std::uint64_t>(words[1]) << 32) | words[0];
}

double uniform(Seed seed, std::uint64_t position) {
  return static_cast<double>(random_bits(seed, position) >> 11) * 0x1.0p-53;
}

std::uint64_t uniform_below(Seed seed, std::uint64_t position, std::uint64_t n) {
  if (n == 0) throw InputError("uniform_below: n is 0, expected at least 1");
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(random_bits(seed, position)) * n) >> 64);
}

double normal(Seed seed, std::uint64_t position) {
  const double u = 1.0 - uniform(seed, 2 * position);  // in (0, 1]: its logarithm is finite
  const double angle = 2.0 * std::numbers::pi * uniform(seed, 2 * position + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
}

std::vector<std::size_t> permutation(Seed seed, std::size_t n) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = n; i > 1; --i) {
    std::swap(order[i - 1], order[uniform_below(seed, i - 1, i)]);
  }
  return order;
}

}  // namespace sao
