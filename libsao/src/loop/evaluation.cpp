// SPDX-License-Identifier: Apache-2.0
#include "loop/evaluation.h"

namespace sao::detail {
namespace {

OrderedJson length_preference_to_json(const LengthPreference& preference) {
  return {{"pairs", preference.pairs},
          {"longer_wins_share", preference.longer_wins_share},
          {"correlation", preference.correlation},
          {"mean_difference", preference.mean_difference}};
}

}  // namespace

OrderedJson health_to_json(const JudgeHealth& health) {
  return {{"pairs", health.pairs},
          {"outcomes", health.outcomes},
          {"judged", health.judged},
          {"both_orders", health.both_orders},
          {"agreement", health.agreement},
          {"position_bias", health.position_bias},
          {"mean_entropy", health.mean_entropy},
          {"mean_margin", health.mean_margin},
          {"decided_share", health.decided_share},
          {"inconsistent_share", health.inconsistent_share},
          {"tie_share", health.tie_share},
          {"unparsable_share", health.unparsable_share},
          {"first_share", health.first_share},
          {"characters", length_preference_to_json(health.characters)},
          {"tokens", length_preference_to_json(health.tokens)}};
}

OrderedJson comparison_to_json(const Comparison& comparison) {
  const WinRate& plain = comparison.win_rate;
  const LengthControlledWinRate& controlled = comparison.length_controlled;
  return {{"win_rate", plain.win_rate},
          {"standard_error", plain.standard_error},
          {"discrete_win_rate", plain.discrete_win_rate},
          {"wins", plain.wins},
          {"losses", plain.losses},
          {"ties", plain.ties},
          {"n", plain.n},
          {"length_controlled_winrate", controlled.win_rate},
          {"lc_standard_error", controlled.standard_error},
          {"lc_low", controlled.low},
          {"lc_high", controlled.high},
          {"equal_length_win_rate", comparison.equal_length.win_rate},
          {"equal_length_standard_error", comparison.equal_length.standard_error},
          {"equal_length_n", comparison.equal_length.n},
          {"model_length", comparison.model_length},
          {"baseline_length", comparison.baseline_length},
          {"model_truncated", comparison.model_truncated},
          {"baseline_truncated", comparison.baseline_truncated},
          {"judge", health_to_json(comparison.health)}};
}

}  // namespace sao::detail
