// SPDX-License-Identifier: Apache-2.0
// Collects what is wrong with an options struct, so that one exception names it all.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <string_view>
#include <vector>

#include "sao/base/error.h"

namespace sao::detail {

class Problems {
 public:
  explicit Problems(std::string_view where) : where_(where) {}

  template <class T>
  void need(bool good, std::string_view field, const T& found, std::string_view expected) {
    if (!good) list_.push_back(fmt::format("{} is {}, expected {}", field, found, expected));
  }

  /// Throws InputError unless all was well.
  void raise() const {
    if (!list_.empty()) throw InputError(fmt::format("{}: {}", where_, fmt::join(list_, "; ")));
  }

 private:
  std::string where_;
  std::vector<std::string> list_;
};

}  // namespace sao::detail
