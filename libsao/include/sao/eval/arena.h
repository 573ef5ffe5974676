// SPDX-License-Identifier: Apache-2.0
// Arena-Hard: judgments to battles, battles to scores by Bradley and Terry's model, with bootstrap intervals.
//   sao::ArenaBattles games = sao::read_arena_battles("model_judgment/judge/ours.jsonl", "gpt-4-0314");
//   auto scores = sao::arena_scores(games.battles, "gpt-4-0314");
// Follows: Li et al. 2024; lmarena/arena-hard-auto, show_result.py of v0.1 and v2.0 without style control.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"

namespace sao {

/// The verdict in a judge's text: what stands in `[[A>>B]]`, "A>>B", "A>B", "A=B", "B>A" or "B>>A"; nothing where there
/// is none of these. `last` false is v0.1's rule: texts with two different labels have no verdict; true is v2.0's: the
/// last label counts, in capitals or not.
std::optional<std::string> arena_verdict(std::string_view judgment, bool last = false);

/// One game between two models, or several of the same outcome: `>>` counts three times.
struct ArenaBattle {
  std::string model_a = {};
  std::string model_b = {};
  double outcome = 0.5;     ///< of model_b: 1 it wins, 0 it loses, 1/2 a tie
  std::int64_t weight = 1;  ///< how often the battle counts, in the bootstrap too
};

/// Battles and the games that gave none.
struct ArenaBattles {
  std::vector<ArenaBattle> battles = {};
  std::map<std::string, std::int64_t> dropped = {};  ///< reason -> games: "no_verdict", "no_game"
};

/// Reads JSON Lines of either form:
/// - judgments: `model`, `games` of two with a `score` ("A>>B", ...; null is no verdict) or, without it, a `judgment`
///   text whose verdict is taken by arena_verdict (`last_verdict`). In the first game A is the baseline, in the second
///   the model. The baseline is the row's `baseline`, else `baseline`;
/// - battles: `model_a`, `model_b`, `winner` ("model_a", "model_b", or "tie" and what begins so).
/// Throws InputError naming file, line and field.
ArenaBattles read_arena_battles(const std::filesystem::path& file, const std::string& baseline = "baseline",
                                bool last_verdict = false);

struct ArenaOptions {
  std::int64_t bootstrap = 100;  ///< resamples of the battles for the interval
  double confidence = 0.95;      ///< of the interval
  Seed seed = {};                ///< draws the resamples
};

template <class Visitor, OptionsOf<ArenaOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("bootstrap", options.bootstrap, "resamples of the battles for the interval");
  visit("confidence", options.confidence, "of the interval");
  visit("seed", options.seed, "seed of the resamples");
}

/// Throws InputError naming every field out of range.
void validate(const ArenaOptions& options);

struct ArenaScore {
  std::string model = {};
  double score = 50;  ///< win rate against the baseline, percent
  double low = 50;    ///< percentiles of the score over the resamples
  double high = 50;
  double elo = 1000;  ///< the baseline has 1000
  double wins = 0;    ///< against all, weighted
  double losses = 0;
  double ties = 0;
};

/// Bradley-Terry by maximum likelihood over all battles, a tie half a win for either: P(a beats b) =
/// 1 / (1 + 10^((R_b - R_a) / 400)). Where all battles are against the baseline, a score is the weighted win rate. A
/// ridge of 1e-9 keeps models that win (or lose) everything finite. Sorted by score. Resamples draw battles with
/// replacement, each as often as it counts.
/// Throws InputError: no battles, a baseline that is in none, options out of range, models that no chain of battles
/// connects with the baseline.
std::vector<ArenaScore> arena_scores(std::span<const ArenaBattle> battles, const std::string& baseline,
                                     const ArenaOptions& options = {});

}  // namespace sao
