// SPDX-License-Identifier: Apache-2.0
#include "text/token_strings.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

std::uint32_t hash_of(std::string_view string) {
  const auto mix = [](std::uint64_t h) {
    h *= 0x9E3779B97F4A7C15ULL;
    return h ^ h >> 32;
  };
  std::uint64_t hash = string.size();
  const char* at = string.data();
  std::size_t left = string.size();
  for (; left >= 8; left -= 8, at += 8) {
    std::uint64_t chunk;
    std::memcpy(&chunk, at, 8);
    hash = mix(hash ^ chunk);
  }
  std::uint64_t chunk = 0;
  for (std::size_t i = 0; i < left; ++i) chunk = chunk << 8 | static_cast<unsigned char>(at[i]);
  return static_cast<std::uint32_t>(mix(mix(hash ^ chunk)));
}

}  // namespace

void TokenStrings::resize(std::size_t size) {
  SAO_CHECK(entries_.empty());
  entries_.resize(size);
  slots_.assign(std::bit_ceil(std::max<std::size_t>(16, size * 2)), Slot{});
}

void TokenStrings::set(TokenId id, std::string_view string) {
  SAO_CHECK(id >= 0 && static_cast<std::size_t>(id) < entries_.size() && !string.empty());
  Entry& entry = entries_[static_cast<std::size_t>(id)];
  SAO_CHECK(entry.length == 0 && find(string) < 0);
  entry = {bytes_.size(), string.size()};
  bytes_ += string;
  const std::uint32_t hash = hash_of(string);
  std::size_t i = hash & (slots_.size() - 1);
  while (slots_[i].id >= 0) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {hash, id};
}

TokenId TokenStrings::find(std::string_view string) const {
  if (slots_.empty()) return -1;
  const std::uint32_t hash = hash_of(string);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = hash & mask; slots_[i].id >= 0; i = (i + 1) & mask)
    if (slots_[i].hash == hash && (*this)[slots_[i].id] == string) return slots_[i].id;
  return -1;
}

}  // namespace sao::detail
