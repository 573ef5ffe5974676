// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/pairs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "sao/base/error.h"
#include "sao/judge/judge.h"

namespace sao {
namespace {

/// A verdict with the responses that it names.
struct Match {
  const Verdict* verdict = nullptr;
  const Response* first = nullptr;
  const Response* second = nullptr;
};

/// Why this verdict makes no pair; "kept" when it does.
std::string outcome_of(const Match& match, const PairOptions& options) {
  const Verdict& verdict = *match.verdict;
  const bool inconsistent = verdict.outcome == "inconsistent";
  const bool decided = verdict.outcome == "first" || verdict.outcome == "second";
  if (!decided && !(inconsistent && options.keep_inconsistent)) return verdict.outcome;
  const auto is_cut = [](const Response& response) { return response.finish_reason == "length"; };
  if (!options.keep_truncated && (is_cut(*match.first) || is_cut(*match.second))) return "truncated";
  if (verdict.p_first == 0.5) return "tie";
  if (std::abs(verdict.p_first - 0.5) < options.min_margin) return "low_margin";
  return "kept";
}

Preference preference_of(const Prompt& prompt, const Match& match, const PairOptions& options) {
  const bool first_wins = match.verdict->p_first > 0.5;
  const Response& chosen = first_wins ? *match.first : *match.second;
  const Response& rejected = first_wins ? *match.second : *match.first;
  Preference pair;
  pair.id = prompt.id;
  pair.prompt = {{.role = "user", .content = prompt.text}};
  pair.chosen = {{.role = "assistant", .content = chosen.text}};
  pair.rejected = {{.role = "assistant", .content = rejected.text}};
  if (!prompt.ids.empty() && !chosen.ids.empty() && !rejected.ids.empty()) {
    pair.prompt_ids = prompt.ids;
    pair.chosen_ids = chosen.ids;
    pair.rejected_ids = rejected.ids;
  }
  if (options.soft_labels) pair.p = std::max(match.verdict->p_first, 1.0 - match.verdict->p_first);
  return pair;
}

/// The match between the best and the worst response; `intransitive` when it does not say so itself.
Match best_against_worst(std::span<const Match> matches, bool& intransitive) {
  struct Score {
    const Response* response = nullptr;
    double sum = 0;
    std::int64_t matches = 0;
    double mean() const { return matches > 0 ? sum / static_cast<double>(matches) : 0.5; }
  };
  std::vector<Score> scores;
  const auto score_of = [&](const Response* response) -> Score& {
    const auto found =
        std::find_if(scores.begin(), scores.end(), [&](const Score& s) { return s.response == response; });
    return found != scores.end() ? *found : scores.emplace_back(Score{.response = response});
  };
  for (const Match& match : matches) {
    score_of(match.first);  // also those without any probability take part, in their order
    score_of(match.second);
    if (!has_probability(*match.verdict)) continue;
    const auto add = [](Score& score, double p) {
      score.sum += p;
      ++score.matches;
    };
    add(score_of(match.first), match.verdict->p_first);
    add(score_of(match.second), 1.0 - match.verdict->p_first);
  }
  const auto less = [](const Score& a, const Score& b) { return a.mean() < b.mean(); };
  const Response* best = std::max_element(scores.begin(), scores.end(), less)->response;
  const auto is_other = [&](const Response* response) { return response != best; };
  const Score* worst = nullptr;
  for (const Score& score : scores) {
    if (is_other(score.response) && (worst == nullptr || less(score, *worst))) worst = &score;
  }
  SAO_CHECK(worst != nullptr);
  for (const Match& match : matches) {
    const bool same = match.first == best && match.second == worst->response;
    const bool reversed = match.second == best && match.first == worst->response;
    if (!same && !reversed) continue;
    const double p_best = same ? match.verdict->p_first : 1.0 - match.verdict->p_first;
    intransitive = has_probability(*match.verdict) && p_best < 0.5;
    return match;
  }
  intransitive = true;  // the two never met
  return matches.front();
}

}  // namespace

void validate(const PairOptions& options) {
  if (!(options.min_margin >= 0.0 && options.min_margin <= 0.5)) {
    throw InputError(fmt::format("PairOptions: min_margin: {}, expected 0 to 0.5", options.min_margin));
  }
}

PreferencePairs build_pairs(std::span<const Prompt> prompts, std::span<const Response> responses,
                            std::span<const Verdict> verdicts, const PairOptions& options) {
  validate(options);
  std::unordered_map<std::string_view, const Response*> response_by_id;
  for (const Response& response : responses) response_by_id[response.id] = &response;
  std::unordered_map<std::string_view, std::vector<Match>> matches_by_prompt;
  for (const Prompt& prompt : prompts) matches_by_prompt[prompt.id];
  for (const Verdict& verdict : verdicts) {
    const auto found = matches_by_prompt.find(verdict.prompt_id);
    if (found == matches_by_prompt.end()) {
      throw InputError(
          fmt::format("verdict {}: prompt_id \"{}\", expected the id of a prompt", verdict.id, verdict.prompt_id));
    }
    const auto response = [&](const std::string& id) {
      const auto named = response_by_id.find(id);
      if (named == response_by_id.end() || named->second->prompt_id != verdict.prompt_id) {
        throw InputError(fmt::format("verdict {}: response \"{}\", expected the id of a response to prompt {}",
                                     verdict.id, id, verdict.prompt_id));
      }
      return named->second;
    };
    found->second.push_back(
        {.verdict = &verdict, .first = response(verdict.first_id), .second = response(verdict.second_id)});
  }

  PreferencePairs built;
  for (const Prompt& prompt : prompts) {
    if (prompt.outcome != "kept" && !prompt.outcome.empty()) continue;
    const std::vector<Match>& matches = matches_by_prompt.at(prompt.id);
    std::string outcome = "not_judged";
    if (!matches.empty()) {
      bool intransitive = false;
      const Match match = matches.size() == 1 ? matches.front() : best_against_worst(matches, intransitive);
      outcome = intransitive ? "intransitive" : outcome_of(match, options);
      if (outcome == "kept") built.pairs.push_back(preference_of(prompt, match, options));
    }
    ++built.outcomes[outcome];
  }
  return built;
}

}  // namespace sao
