// SPDX-License-Identifier: Apache-2.0
// What is wrong, or may be wrong, with a whole set of preference rows.
//   for (const auto& [reason, rows] : sao::check_preferences(rows).found) std::printf("%ld %s\n", rows,
//   reason.c_str());
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "sao/data/records.h"

namespace sao {

struct PreferenceCheck {
  std::int64_t rows = 0;
  /// Reason -> rows: "empty_prompt", "empty_response", "identical" (chosen is rejected), "duplicate" (prompt, chosen
  /// and rejected are those of a row before) and "contradiction" (a row before prefers the other way round).
  std::map<std::string, std::int64_t> found = {};
};

/// Counts; a row may have several reasons, and none is changed or left out. Rows are compared by their text, those
/// without text by their ids.
PreferenceCheck check_preferences(std::span<const Preference> rows);

}  // namespace sao
