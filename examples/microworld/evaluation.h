// SPDX-License-Identifier: Apache-2.0
// What the demo measures of a model, with the oracle as the only judge. Nothing here reaches synth, judge or train.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "flaws.h"
#include "sao/eval/win_rate.h"
#include "sao/generate/generator.h"

namespace microworld {

/// One model's answers to a list of requests, measured by the oracle.
struct Answers {
  std::vector<std::string> texts;
  std::vector<int> scores;  // 0 to 10
  std::vector<Flaws> flaws;
  std::vector<int> words;

  double mean_score() const;
  double mean_words() const;
  double share(Flaws any_of) const;  // answers with at least one of these flaws
  double clean_share() const;
};

/// Flaws of content, as opposed to those of form.
inline constexpr Flaws kContentFlaws = kOffTopic | kWrong | kCount | kBroken;

inline constexpr std::uint64_t kRequestsSeed = 1001;  // of the held-out requests; the same for every model
inline constexpr std::uint64_t kHealthSeed = 2002;

/// Requests that no training document holds.
std::vector<std::string> held_out_requests(std::uint64_t seed, std::size_t count);

/// Samples one answer to each request. `temperature` 0 is greedy; `opening` is put in the model's mouth.
Answers answer_requests(sao::Generator& model, std::span<const std::string> requests, double temperature,
                        sao::Seed seed, const std::string& opening = {});

/// The second model's answers against the first's, request by request; the higher score wins, equal scores tie.
struct Comparison {
  sao::WinRate win;
  sao::LengthControlledWinRate length_controlled;  // lengths in words
  sao::WinRate equal_length;                       // pairs with the same number of words
};
Comparison compare(const Answers& before, const Answers& after);

/// What must not be lost.
struct Health {
  double judge_accuracy = 0.0;                              // both orders combined, fresh labelled pairs
  std::array<double, kFlawCount> judge_accuracy_by_flaw{};  // pairs that differ in this flaw alone
  double request_loss = 0.0;                                // nats a token of held-out requests given their personas
  double clean_answer_loss = 0.0;                           // nats a token of clean answers to held-out requests
};
Health check_health(sao::Generator& model, std::uint64_t seed, std::size_t count = 500);

}  // namespace microworld
