// SPDX-License-Identifier: Apache-2.0
// How often one model's answers are preferred to another's, plainly and with the length of the answers taken out.
//   sao::WinRate rate = sao::win_rate(preferences);                  // preferences[i] = P(the model's answer is
//   better) auto controlled = sao::length_controlled_win_rate(preferences, model_lengths, baseline_lengths);
// Rates are shares in [0, 1] (eval/alpaca_eval.h, which mirrors a published table, has percent).
#pragma once

#include <cstdint>
#include <span>

#include "sao/base/options.h"
#include "sao/base/seed.h"

namespace sao {

struct WinRate {
  double win_rate = 0.5;           ///< mean preference; a tie counts 1/2
  double standard_error = 0;       ///< sd / sqrt(n), ddof 1
  double discrete_win_rate = 0.5;  ///< mean of 1 where the preference is above 1/2, 1/2 where it is 1/2, else 0
  std::int64_t n = 0;              ///< preferences counted
  std::int64_t wins = 0;           ///< above 1/2
  std::int64_t losses = 0;         ///< below
  std::int64_t ties = 0;
};

/// Preferences in [0, 1]; NaN (no verdict) is left out. Without any, both rates are 1/2 and n is 0.
/// Throws InputError: a value outside [0, 1].
WinRate win_rate(std::span<const double> preferences);

/// win_rate over the prompts whose two answers differ in length by at most `tolerance` times the longer one.
/// Throws InputError: lists of different size, a negative length, tolerance outside [0, 1].
WinRate equal_length_win_rate(std::span<const double> preferences, std::span<const double> model_lengths,
                              std::span<const double> baseline_lengths, double tolerance = 0.05);

struct LengthControlOptions {
  std::int64_t bootstrap = 1000;  ///< resamples of the prompts for the interval; 0 takes it from the standard error
  double confidence = 0.95;       ///< of the interval
  Seed seed = {};                 ///< draws the resamples
};

template <class Visitor, OptionsOf<LengthControlOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("bootstrap", options.bootstrap, "resamples of the prompts for the confidence interval; 0 uses the normal law");
  visit("confidence", options.confidence, "of the interval");
  visit("seed", options.seed, "seed of the resamples");
}

/// Throws InputError naming every field out of range.
void validate(const LengthControlOptions& options);

struct LengthControlledWinRate {
  double win_rate = 0.5;      ///< at equal lengths
  double standard_error = 0;  ///< delta method on the sandwich estimate of the coefficients' covariance
  double low = 0.5;           ///< percentile bootstrap interval, or win_rate -+ z * standard_error
  double high = 0.5;
  double length_coefficient = 0;  ///< of tanh((baseline length - model length) / sd); below 0: length is liked
  double intercept = 0;           ///< logit(win_rate)
  std::int64_t n = 0;
};

/// The win rate that a logistic regression predicts at equal lengths, for any set of prompts:
///   P(model wins on i) = sigma(w t_i + b),  t_i = tanh(d_i / sd(d)),  d_i = baseline length - model length,
/// and LC = sigma(b). sd has ddof 1. Preferences are soft labels (cross-entropy). A ridge of 1e-6 (w^2 + b^2) / 2 on
/// the summed loss keeps the optimum finite where preferences separate. Where all differences are equal there is no
/// length term. Newton's method in double, to a step below 1e-10.
/// NOTE: only the answers at hand tell quality from length here: where the better answers are always the longer ones,
/// the length term takes the credit. AlpacaEval anchors it with the gamed rows (eval/alpaca_eval.h).
/// Follows: AlpacaEval 2.0's length_controlled_v1 without instruction difficulty and gamed rows.
/// Throws InputError: lists of different size, a value out of range, options out of range.
LengthControlledWinRate length_controlled_win_rate(std::span<const double> preferences,
                                                   std::span<const double> model_lengths,
                                                   std::span<const double> baseline_lengths,
                                                   const LengthControlOptions& options = {});

}  // namespace sao
