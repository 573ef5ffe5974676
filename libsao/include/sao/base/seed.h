// SPDX-License-Identifier: Apache-2.0
// Counted random numbers: number `position` of a seed is a pure function of both, so it does not
// depend on what was drawn before, on the batch, the order of work or the number of processes.
//   Seed seed{42};
//   double u = uniform(seed.fork("answers").fork(item), position);
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace sao {

/// A seed on record. Streams are derived from it by name and by index, never drawn from it.
struct Seed {
  std::uint64_t value = 0;

  /// A stream of its own for the use that `name` names; FNV-1a of the name mixed by SplitMix64's finaliser.
  Seed fork(std::string_view name) const;
  /// A stream of its own for item `index`.
  Seed fork(std::uint64_t index) const;

  bool operator==(const Seed&) const = default;
};

/// 64 random bits; Philox4x32-10 (Salmon et al. 2011) keyed by the seed, counter = position.
std::uint64_t random_bits(Seed seed, std::uint64_t position);

/// A double in [0, 1) with 53 random bits.
double uniform(Seed seed, std::uint64_t position);

/// An integer in [0, n). Throws InputError if n == 0. Bias below 2^-32 for n < 2^32.
std::uint64_t uniform_below(Seed seed, std::uint64_t position, std::uint64_t n);

/// A standard normal number (Box-Muller of positions 2*position and 2*position+1).
double normal(Seed seed, std::uint64_t position);

/// A permutation of 0..n-1 (Fisher-Yates, from the back).
std::vector<std::size_t> permutation(Seed seed, std::size_t n);

}  // namespace sao
