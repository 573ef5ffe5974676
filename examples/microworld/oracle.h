// SPDX-License-Identifier: Apache-2.0
// Measures an answer to a request of the micro world by rules; only evaluation uses it.
//   std::optional<Assessment> a = assess("What color is a lemon?", "A lemon is yellow.");
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flaws.h"

namespace microworld {

struct Assessment {
  Flaws flaws = 0;
  int score = 10;
};

/// True where `request` is a request of this world.
bool is_request(std::string_view request);
/// Flaws and score of `answer`; nothing where `request` is none of this world.
std::optional<Assessment> assess(std::string_view request, std::string_view answer);
/// Names of the flaws in a set: {"wrong_fact", "idle_talk"}.
std::vector<std::string> flaw_names(Flaws flaws);

}  // namespace microworld
