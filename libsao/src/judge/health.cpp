// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/health.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "sao/base/statistics.h"
#include "sao/judge/judge.h"

namespace sao {
namespace {

double share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

double entropy_bits(double p) {
  const auto term = [](double x) { return x > 0.0 ? -x * std::log2(x) : 0.0; };
  return term(p) + term(1.0 - p);
}

double mean_or_zero(const std::vector<double>& values) { return values.empty() ? 0.0 : mean(values); }

double characters(const Response& response) { return static_cast<double>(detail::count_characters(response.text)); }

double tokens(const Response& response) { return static_cast<double>(response.ids.size()); }

bool is_decided(const Verdict& verdict) { return verdict.outcome == "first" || verdict.outcome == "second"; }

using ResponsesById = std::unordered_map<std::string_view, const Response*>;

const Response& response_of(const ResponsesById& responses, const std::string& id, const Verdict& verdict) {
  const auto found = responses.find(id);
  if (found == responses.end()) {
    throw InputError(fmt::format("verdict {}: response \"{}\", expected the id of a response", verdict.id, id));
  }
  return *found->second;
}

LengthPreference length_preference(std::span<const Verdict> verdicts, const ResponsesById& responses,
                                   double (*length)(const Response&)) {
  LengthPreference preference;
  std::vector<double> p, differences, winner_minus_loser;
  std::int64_t longer_wins = 0;
  for (const Verdict& verdict : verdicts) {
    const double difference = length(response_of(responses, verdict.first_id, verdict)) -
                              length(response_of(responses, verdict.second_id, verdict));
    if (!has_probability(verdict)) continue;
    p.push_back(verdict.p_first);
    differences.push_back(difference);
    if (!is_decided(verdict)) continue;
    winner_minus_loser.push_back(verdict.outcome == "first" ? difference : -difference);
    if (difference == 0.0) continue;
    ++preference.pairs;
    if (winner_minus_loser.back() > 0.0) ++longer_wins;
  }
  preference.longer_wins_share = share(longer_wins, preference.pairs);
  preference.correlation = correlation(p, differences);
  preference.mean_difference = mean_or_zero(winner_minus_loser);
  return preference;
}

}  // namespace

JudgeHealth judge_health(std::span<const Verdict> verdicts, std::span<const Response> responses) {
  ResponsesById by_id;
  for (const Response& response : responses) by_id[response.id] = &response;

  JudgeHealth health;
  health.pairs = static_cast<std::int64_t>(verdicts.size());
  std::vector<double> bias, entropy, margin;
  std::int64_t agreeing = 0;
  for (const Verdict& verdict : verdicts) {
    ++health.outcomes[verdict.outcome];
    if (has_probability(verdict)) margin.push_back(std::abs(verdict.p_first - 0.5));
    if (verdict.p_as_first) entropy.push_back(entropy_bits(*verdict.p_as_first));
    if (verdict.p_as_second) entropy.push_back(entropy_bits(*verdict.p_as_second));
    if (verdict.p_as_first && verdict.p_as_second) {
      ++health.both_orders;
      bias.push_back(*verdict.p_as_first - *verdict.p_as_second);  // p12 + p21 - 1, as p_as_second = 1 - p21
      if ((*verdict.p_as_first - 0.5) * (*verdict.p_as_second - 0.5) >= 0.0) ++agreeing;
    }
  }
  const auto count = [&](const char* outcome) {
    const auto found = health.outcomes.find(outcome);
    return found == health.outcomes.end() ? std::int64_t{0} : found->second;
  };
  const std::int64_t decided = count("first") + count("second");
  health.judged = decided + count("tie") + count("inconsistent") + count("unparsable");
  health.agreement = share(agreeing, health.both_orders);
  health.position_bias = mean_or_zero(bias);
  health.mean_entropy = mean_or_zero(entropy);
  health.mean_margin = mean_or_zero(margin);
  health.decided_share = share(decided, health.judged);
  health.inconsistent_share = share(count("inconsistent"), health.judged);
  health.tie_share = share(count("tie"), health.judged);
  health.unparsable_share = share(count("unparsable"), health.judged);
  health.first_share = share(count("first"), decided);
  health.characters = length_preference(verdicts, by_id, characters);
  health.tokens = length_preference(verdicts, by_id, tokens);
  return health;
}

}  // namespace sao
