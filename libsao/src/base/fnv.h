// SPDX-License-Identifier: Apache-2.0
// FNV-1a 64, for streams of random numbers and for fingerprints.
#pragma once

#include <cstdint>
#include <string_view>

namespace sao::detail {

inline constexpr std::uint64_t kFnvOffset = 0xCBF29CE484222325ULL;

/// Goes on from `hash`, so that a text may come in pieces.
constexpr std::uint64_t fnv1a(std::string_view bytes, std::uint64_t hash = kFnvOffset) {
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3ULL;
  return hash;
}

}  // namespace sao::detail
