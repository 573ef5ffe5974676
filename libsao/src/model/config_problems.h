// SPDX-License-Identifier: Apache-2.0
// What is wrong with a config, found by reading it and by checking its values.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sao/model/config.h"

namespace sao::detail {

inline constexpr std::int64_t kMaxLayers = 1 << 12;

/// A field and what is wrong with it.
using Problems = std::vector<std::pair<std::string, std::string>>;

/// Every field that is out of range or does not fit the others or the family.
Problems find_problems(const ModelConfig& config);
[[noreturn]] void throw_problems(std::string_view where, const Problems& problems);

}  // namespace sao::detail
