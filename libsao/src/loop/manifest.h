// SPDX-License-Identifier: Apache-2.0
// What a run was made with: settings, seeds, versions, fingerprints of its inputs.
#pragma once

#include <string>

#include "io/json.h"
#include "sao/base/seed.h"
#include "sao/loop/round.h"

namespace sao::detail {

/// The stages of a round that draw random numbers.
inline constexpr const char* kRoundStages[] = {"prompts", "responses", "judge", "train"};

Seed round_seed(Seed run, std::int64_t round, const char* stage);
Seed evaluation_seed(Seed run);
Seed persona_seed(Seed run);

/// The settings that a user can set, nested by their dots; without those that change speed and memory only (the
/// engine's, items_per_call), so that runs at different batch sizes are the same to the byte.
OrderedJson settings_to_json(const RunSettings& settings);

/// RUN/manifest.json. Throws InputError when an input cannot be read.
std::string manifest_json(const RunSettings& settings);

}  // namespace sao::detail
