// SPDX-License-Identifier: Apache-2.0
// What can be wrong with an answer, and how much it weighs: the scale that the composer's labels
// and the oracle's scores share.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

namespace microworld {

/// A set of flaws is an or of these bits.
using Flaws = std::uint32_t;
inline constexpr Flaws kOffTopic = 1;
inline constexpr Flaws kWrong = 2;
inline constexpr Flaws kCount = 4;
inline constexpr Flaws kRepeats = 8;
inline constexpr Flaws kIgnored = 16;
inline constexpr Flaws kIdle = 32;
inline constexpr Flaws kBroken = 64;
inline constexpr int kFlawCount = 7;

struct FlawInfo {
  std::string_view name;    // for reports
  std::string_view phrase;  // for the judge's reasons
  int weight = 0;
};

inline constexpr std::array<FlawInfo, kFlawCount> kFlaws = {{
    {"off_topic", "is off topic", 6},
    {"wrong_fact", "is wrong", 4},
    {"wrong_count", "has the wrong number", 3},
    {"repetition", "repeats itself", 3},
    {"ignored_wish", "ignores a wish", 3},
    {"idle_talk", "is idle talk", 2},
    {"broken_off", "breaks off", 4},
}};

/// 10 for a clean answer, less the weight of each flaw; never below 0.
constexpr int score_of(Flaws flaws) {
  int score = 10;
  for (int i = 0; i < kFlawCount; ++i) {
    if (flaws & (Flaws{1} << i)) score -= kFlaws[static_cast<std::size_t>(i)].weight;
  }
  return std::max(score, 0);
}

}  // namespace microworld
