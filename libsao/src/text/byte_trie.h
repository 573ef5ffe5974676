// SPDX-License-Identifier: Apache-2.0
// Which of many strings a text begins with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace sao::detail {

class ByteTrie {
 public:
  /// Of strings that are inserted twice the last value counts. `value` is not negative.
  void insert(std::string_view string, std::int32_t value) {
    std::uint32_t at = 0;
    for (const char c : string) {
      const auto byte = static_cast<unsigned char>(c);
      auto& children = nodes_[at].children;
      const auto place = std::ranges::lower_bound(children, byte, {}, &Child::first);
      if (place != children.end() && place->first == byte) {
        at = place->second;
        continue;
      }
      const auto next = static_cast<std::uint32_t>(nodes_.size());
      children.insert(place, {byte, next});
      nodes_.emplace_back();
      at = next;
    }
    nodes_[at].value = value;
  }

  /// Calls each(length, value) for every string that `text` begins with, shortest first.
  template <class Each>
  void for_each_prefix(std::string_view text, Each&& each) const {
    std::uint32_t at = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      const auto& children = nodes_[at].children;
      const auto place = std::ranges::lower_bound(children, byte, {}, &Child::first);
      if (place == children.end() || place->first != byte) return;
      at = place->second;
      if (nodes_[at].value >= 0) each(i + 1, nodes_[at].value);
    }
  }

 private:
  using Child = std::pair<unsigned char, std::uint32_t>;
  struct Node {
    std::vector<Child> children = {};  // sorted by byte
    std::int32_t value = -1;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
};

}  // namespace sao::detail
