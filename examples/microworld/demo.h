// SPDX-License-Identifier: Apache-2.0
// One whole SAO run on the bundled model, shown to a person: progress, transcripts before and after, a closing table.
#pragma once

#include <cstdint>
#include <filesystem>

#include "experiment.h"

namespace microworld {

struct DemoOptions {
  std::int64_t rounds = 1;
  std::int64_t requests = 500;  // held-out requests that the result is measured on
  std::int64_t transcripts = 6;
  std::int64_t seed = 42;
};

template <class Visitor, sao::OptionsOf<DemoOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("rounds", options.rounds, "rounds of self-alignment");
  visit("requests", options.requests, "held-out requests that the result is measured on");
  visit("transcripts", options.transcripts, "requests shown with the answers before and after");
  visit("seed", options.seed, "seed of everything");
}

/// Runs in `run_folder` (continuing a run that was stopped) from the model in `model_folder`, then measures and prints
/// to the standard output. Throws sao::Error.
void demo(const std::filesystem::path& model_folder, const std::filesystem::path& run_folder,
          const RoundSettings& round, const DemoOptions& options);

}  // namespace microworld
