// SPDX-License-Identifier: Apache-2.0
// Whether the judge can be trusted: what it says about itself over many verdicts.
//   sao::JudgeHealth health = sao::judge_health(verdicts, responses);
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "sao/data/records.h"

namespace sao {

/// Whether the judge likes length, in one unit.
struct LengthPreference {
  std::int64_t pairs = 0;        ///< decided verdicts ("first", "second") on responses of different length
  double longer_wins_share = 0;  ///< of those, the longer response won; 0.5 is indifferent
  double correlation = 0;        ///< Pearson, of p_first and length(first) - length(second), over all pairs with a p
  double mean_difference = 0;    ///< mean of length(winner) - length(loser) over the decided verdicts
};

/// Every share has the number of pairs named in its comment as denominator and is 0 where that is 0.
struct JudgeHealth {
  std::int64_t pairs = 0;                             ///< verdicts
  std::map<std::string, std::int64_t> outcomes = {};  ///< how many verdicts have each outcome
  std::int64_t judged = 0;  ///< verdicts for which the judge was asked: first, second, tie, inconsistent, unparsable
  std::int64_t both_orders = 0;  ///< verdicts with a probability in both orders
  double agreement = 0;          ///< share of both_orders whose two probabilities are not on different sides of 1/2
  double position_bias = 0;      ///< mean of p12 + p21 - 1 over both_orders: > 0 likes what is shown first; -1 to 1
  double mean_entropy = 0;  ///< mean over all single readings of H(p) = -p log2 p - (1-p) log2 (1-p), bits; 1 is a coin
  double mean_margin = 0;   ///< mean of |p_first - 1/2| over the judged pairs with a p
  double decided_share = 0;          ///< of judged: "first" or "second"
  double inconsistent_share = 0;     ///< of judged
  double tie_share = 0;              ///< of judged
  double unparsable_share = 0;       ///< of judged
  double first_share = 0;            ///< of decided: "first" (independent samples should give 1/2)
  LengthPreference characters = {};  ///< Unicode code points of the text
  LengthPreference tokens = {};      ///< ids as sampled
};

/// Counts over `verdicts`; lengths are those of the responses that they name.
/// Throws InputError: a verdict that names a response which is not there.
JudgeHealth judge_health(std::span<const Verdict> verdicts, std::span<const Response> responses);

}  // namespace sao
