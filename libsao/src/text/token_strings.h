// SPDX-License-Identifier: Apache-2.0
// A vocabulary: strings by id, and ids by string.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"

namespace sao::detail {

/// Strings of different ids are different; an empty one means that the id is not used.
class TokenStrings {
 public:
  /// Ids 0..size - 1, none of them used yet.
  void resize(std::size_t size);
  std::size_t size() const { return entries_.size(); }

  /// Gives an unused id a string that is neither empty nor another id's.
  void set(TokenId id, std::string_view string);
  /// Empty where the id is out of range or not used.
  std::string_view operator[](TokenId id) const {
    if (id < 0 || static_cast<std::size_t>(id) >= entries_.size()) return {};
    const Entry& entry = entries_[static_cast<std::size_t>(id)];
    return std::string_view(bytes_).substr(entry.begin, entry.length);
  }
  /// The id of a string, or -1.
  TokenId find(std::string_view string) const;

 private:
  struct Entry {
    std::size_t begin = 0;
    std::size_t length = 0;
  };
  struct Slot {
    std::uint32_t hash = 0;
    TokenId id = -1;
  };
  std::string bytes_;  // of all strings
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;  // open addressing, at most half full
};

}  // namespace sao::detail
