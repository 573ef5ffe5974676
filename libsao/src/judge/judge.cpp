// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/judge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/utf8.h"
#include "sao/base/error.h"

namespace sao {
namespace {

/// One showing of an item: which response stands first, and the judge's answer.
struct Showing {
  std::size_t item = 0;
  bool swapped = false;  // the second response is shown first
  TokenIds ids = {};
  std::optional<double> p = {};  // that the response shown first is better; empty = unparsable
};

/// Outcome of an item that needs no judge; empty when it needs one.
std::string outcome_without_judge(const JudgeItem& item, const JudgeOptions& options) {
  const std::string_view first = detail::strip(item.first);
  const std::string_view second = detail::strip(item.second);
  if (first.empty() || second.empty()) return "empty";
  if (item.truncated && !options.judge_truncated) return "truncated";
  if (first == second) return "identical";
  return {};
}

/// softmax over the two log-probs, first entry; nothing when both have vanished or their sum is below `min_mass`.
std::optional<double> probability_of_first(const std::vector<double>& log_probs, double min_mass) {
  SAO_CHECK(log_probs.size() == 2);
  const double largest = std::max(log_probs[0], log_probs[1]);
  if (!std::isfinite(largest)) return std::nullopt;
  if (std::exp(log_probs[0]) + std::exp(log_probs[1]) < min_mass) return std::nullopt;
  return 1.0 / (1.0 + std::exp(log_probs[1] - log_probs[0]));
}

void read_probabilities(Generator& generator, std::span<Showing> showings, const VerdictTokens& tokens,
                        const JudgeOptions& options) {
  std::vector<NextTokenRequest> requests;
  for (Showing& showing : showings) {
    requests.push_back({.ids = std::move(showing.ids), .candidates = {tokens.first, tokens.second}});
  }
  const auto log_probs = generator.next_token_log_probs(requests);
  SAO_CHECK(log_probs.size() == showings.size());
  for (std::size_t i = 0; i < showings.size(); ++i) {
    showings[i].p = probability_of_first(log_probs[i], options.min_verdict_mass);
  }
}

void read_texts(Generator& generator, std::span<Showing> showings, std::span<const JudgeItem> items,
                const JudgeTemplates& templates, const JudgeOptions& options) {
  std::vector<GenerationRequest> requests;
  for (Showing& showing : showings) {
    const Seed seed = options.seed.fork(items[showing.item].id).fork(showing.swapped ? "swapped" : "as given");
    requests.push_back({.prompt_ids = std::move(showing.ids), .seed = seed});
  }
  generator.generate(requests, options.sampling, [&](std::size_t request, std::int64_t, Completion completion) {
    switch (parse_verdict(generator.text().response_text(completion.ids), templates)) {
      case TextVerdict::kFirst:
        showings[request].p = 1.0;
        break;
      case TextVerdict::kSecond:
        showings[request].p = 0.0;
        break;
      case TextVerdict::kTie:
        showings[request].p = 0.5;
        break;
      case TextVerdict::kUnparsable:
        break;
    }
  });
}

/// Combines what the showings of one item said.
void conclude(Verdict& verdict, std::span<const Showing> showings, const JudgeOptions& options) {
  bool unparsable = false;
  for (const Showing& showing : showings) {
    if (!showing.p) {
      unparsable = true;
    } else if (showing.swapped) {
      verdict.p_as_second = 1.0 - *showing.p;
    } else {
      verdict.p_as_first = *showing.p;
    }
  }
  if (unparsable) {
    verdict.outcome = "unparsable";
    return;
  }
  const bool both = verdict.p_as_first && verdict.p_as_second;
  verdict.p_first = both ? (*verdict.p_as_first + *verdict.p_as_second) / 2.0
                         : (verdict.p_as_first ? *verdict.p_as_first : *verdict.p_as_second);
  if (both && (*verdict.p_as_first - 0.5) * (*verdict.p_as_second - 0.5) < 0.0) {
    verdict.outcome = "inconsistent";
  } else if (std::abs(verdict.p_first - 0.5) <= options.tie_margin) {
    verdict.outcome = "tie";
  } else {
    verdict.outcome = verdict.p_first > 0.5 ? "first" : "second";
  }
}

void check_ids(std::span<const JudgeItem> items) {
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].id.empty() || !seen.insert(items[i].id).second) {
      throw InputError(
          fmt::format("judge items: number {} has the id \"{}\", expected one of its own", i, items[i].id));
    }
  }
}

/// `ids` of `whole` after `head` when it begins with it.
std::optional<TokenIds> after(const TokenIds& head, const TokenIds& whole) {
  if (whole.size() < head.size() || !std::equal(head.begin(), head.end(), whole.begin())) return std::nullopt;
  return TokenIds(whole.begin() + static_cast<std::ptrdiff_t>(head.size()), whole.end());
}

/// The answer's tokens as they stand after the assistant's header.
TokenIds encode_answer(const ChatTokenizer& text, const std::string& answer) {
  constexpr const char* kAnyPrompt = "?";
  const TokenIds whole =
      text.encode_chat({{.role = "user", .content = kAnyPrompt}, {.role = "assistant", .content = answer}},
                       {.continue_final_message = true});
  // Tokens may merge across the border of the header; then the answer is encoded by itself.
  if (auto ids = after(text.encode_prompt(kAnyPrompt), whole)) return *ids;
  return text.encode_text(answer, /*special_tokens=*/false);
}

/// Texts of the tokens that shape a conversation. Written out in a response they would end the judge's turn.
std::vector<std::string> turn_markers(const ChatTokenizer& text) {
  std::vector<std::string> markers;
  const auto add = [&](TokenId id) { markers.push_back(text.decode(TokenIds{id}, /*skip_special=*/false)); };
  for (const TokenId id : text.stop_ids()) add(id);
  for (const TokenId id : text.format_ids()) add(id);
  std::erase_if(markers, [](const std::string& marker) { return marker.size() < 2; });
  return markers;
}

/// `text` with a blank inside every turn marker, so that it stays text.
std::string defused(std::string text, const std::vector<std::string>& markers) {
  for (const std::string& marker : markers) {
    for (std::size_t at = text.find(marker); at != std::string::npos; at = text.find(marker, at + 1)) {
      text.insert(at + 1, 1, ' ');
    }
  }
  return text;
}

/// Text without blanks and marks, in lower case, with the place of each character in the original.
struct Compact {
  std::string text = {};
  std::vector<std::size_t> place = {};
};

Compact compact(std::string_view text) {
  constexpr std::string_view kIgnored = " \t\r\n\f\v*_`\"'[](){}";
  constexpr std::array<std::string_view, 4> kIgnoredQuotes = {"“", "”", "‘", "’"};
  Compact result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto quote = std::find_if(kIgnoredQuotes.begin(), kIgnoredQuotes.end(),
                                    [&](std::string_view q) { return text.substr(i).starts_with(q); });
    if (quote != kIgnoredQuotes.end()) {
      i += quote->size() - 1;
      continue;
    }
    if (kIgnored.find(text[i]) != std::string_view::npos) continue;
    result.text += text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] + 32) : text[i];
    result.place.push_back(i);
  }
  return result;
}

bool is_word_character(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// Whether `pattern` stands in `text` as words of its own ("1 > 2" does not in "1 > 20" and "21 > 2").
bool says(std::string_view original, const Compact& text, const std::string& pattern) {
  const auto inside_a_word = [&](std::size_t at) {  // of the original, at this place and before it
    return at > 0 && at < original.size() && is_word_character(original[at - 1]) && is_word_character(original[at]);
  };
  for (std::size_t at = text.text.find(pattern); at != std::string::npos; at = text.text.find(pattern, at + 1)) {
    if (!inside_a_word(text.place[at]) && !inside_a_word(text.place[at + pattern.size() - 1] + 1)) return true;
  }
  return false;
}

}  // namespace

void validate(const JudgeOptions& options) {
  std::vector<std::string> problems;
  if (options.mode != "probability" && options.mode != "text" && options.mode != "random") {
    problems.push_back(fmt::format("mode: \"{}\", expected probability, text or random", options.mode));
  }
  if (!(options.tie_margin >= 0.0 && options.tie_margin <= 0.5)) {
    problems.push_back(fmt::format("tie_margin: {}, expected 0 to 0.5", options.tie_margin));
  }
  if (!(options.min_verdict_mass >= 0.0 && options.min_verdict_mass <= 1.0)) {
    problems.push_back(fmt::format("min_verdict_mass: {}, expected 0 to 1", options.min_verdict_mass));
  }
  if (options.items_per_call < 1) {
    problems.push_back(fmt::format("items_per_call: {}, expected at least 1", options.items_per_call));
  }
  if (!problems.empty()) throw InputError(fmt::format("JudgeOptions: {}", fmt::join(problems, "; ")));
  if (options.mode == "text") validate(options.sampling);
}

bool has_probability(const Verdict& verdict) {
  const std::string& outcome = verdict.outcome;
  return outcome == "first" || outcome == "second" || outcome == "tie" || outcome == "inconsistent";
}

VerdictTokens verdict_tokens(const ChatTokenizer& text, const JudgeTemplates& templates) {
  const TokenIds first = encode_answer(text, templates.judge_prefix + templates.judge_first);
  const TokenIds second = encode_answer(text, templates.judge_prefix + templates.judge_second);
  const auto [a, b] = std::mismatch(first.begin(), first.end(), second.begin(), second.end());
  if (a == first.end() || b == second.end()) {
    throw InputError(
        fmt::format("judge templates: the tokens of \"{}\" and \"{}\" do not differ before one ends, expected "
                    "verdicts of which neither is the beginning of the other",
                    templates.judge_first, templates.judge_second));
  }
  return {.prefix = TokenIds(first.begin(), a), .first = *a, .second = *b};
}

TextVerdict parse_verdict(std::string_view text, const JudgeTemplates& templates) {
  const Compact found = compact(text);
  const std::string first = compact(templates.judge_prefix + templates.judge_first).text;
  const std::string second = compact(templates.judge_prefix + templates.judge_second).text;
  if (first.empty() || second.empty()) return TextVerdict::kUnparsable;
  const auto with_equals = [](std::string verdict) {
    std::replace(verdict.begin(), verdict.end(), '>', '=');
    return verdict;
  };
  const bool says_first = says(text, found, first);
  const bool says_second = says(text, found, second);
  const bool says_tie = (with_equals(first) != first && says(text, found, with_equals(first))) ||
                        (with_equals(second) != second && says(text, found, with_equals(second)));
  if (says_first + says_second + says_tie != 1) return TextVerdict::kUnparsable;
  return says_first ? TextVerdict::kFirst : says_second ? TextVerdict::kSecond : TextVerdict::kTie;
}

std::vector<Verdict> judge_pairs(Generator& generator, std::span<const JudgeItem> items, const JudgeOptions& options,
                                 const JudgeTemplates& templates, const OnVerdict& on_verdict) {
  validate(options);
  validate(templates);
  check_ids(items);
  const bool as_text = options.mode == "text";
  const bool random = options.mode == "random";
  const std::vector<std::string> markers = turn_markers(generator.text());
  VerdictTokens tokens;
  if (!as_text && !random) tokens = verdict_tokens(generator.text(), templates);

  std::vector<Verdict> verdicts;
  verdicts.reserve(items.size());
  const auto per_call = static_cast<std::size_t>(options.items_per_call);
  for (std::size_t begin = 0; begin < items.size(); begin += per_call) {
    const std::size_t end = std::min(begin + per_call, items.size());
    std::vector<Showing> showings;
    for (std::size_t i = begin; i < end; ++i) {
      const JudgeItem& item = items[i];
      Verdict& verdict = verdicts.emplace_back(Verdict{.id = item.id,
                                                       .prompt_id = item.prompt_id,
                                                       .first_id = item.first_id,
                                                       .second_id = item.second_id,
                                                       .outcome = outcome_without_judge(item, options)});
      if (!verdict.outcome.empty()) continue;
      const Seed seed = options.seed.fork(item.id);
      if (random) {
        const Showing coin = {.item = i, .p = uniform(seed, 0) < 0.5 ? 1.0 : 0.0};
        conclude(verdict, {&coin, 1}, options);
        continue;
      }
      const bool swap_the_one = options.random_order && uniform(seed.fork("order"), 0) < 0.5;
      std::vector<bool> orders = {false, true};
      if (!options.both_orders) orders = {swap_the_one};
      const std::size_t before = showings.size();
      bool fits = true;
      for (const bool swapped : orders) {
        const std::string first = defused(swapped ? item.second : item.first, markers);
        const std::string second = defused(swapped ? item.first : item.second, markers);
        const std::string prompt = defused(item.prompt, markers);
        TokenIds ids = generator.text().encode_prompt(render_judge_prompt(templates, prompt, first, second));
        ids.insert(ids.end(), tokens.prefix.begin(), tokens.prefix.end());
        fits = fits && static_cast<std::int64_t>(ids.size()) < generator.max_tokens();
        showings.push_back({.item = i, .swapped = swapped, .ids = std::move(ids)});
      }
      if (!fits) {
        showings.resize(before);
        verdict.outcome = "too_long";
      }
    }
    if (!showings.empty()) {
      if (as_text) {
        read_texts(generator, showings, items, templates, options);
      } else {
        read_probabilities(generator, showings, tokens, options);
      }
    }
    for (std::size_t s = 0; s < showings.size();) {
      std::size_t next = s;
      while (next < showings.size() && showings[next].item == showings[s].item) ++next;
      conclude(verdicts[showings[s].item], std::span<const Showing>(showings).subspan(s, next - s), options);
      s = next;
    }
    if (on_verdict) {
      for (std::size_t i = begin; i < end; ++i) on_verdict(verdicts[i]);
    }
  }
  return verdicts;
}

std::vector<JudgeItem> judge_items(std::span<const Prompt> prompts, std::span<const Response> responses) {
  std::unordered_map<std::string_view, std::map<std::int64_t, const Response*>> of_prompt;
  for (const Prompt& prompt : prompts) of_prompt[prompt.id];
  for (const Response& response : responses) {
    const auto found = of_prompt.find(response.prompt_id);
    if (found == of_prompt.end()) {
      throw InputError(
          fmt::format("response {}: prompt_id \"{}\", expected the id of a prompt", response.id, response.prompt_id));
    }
    if (!found->second.emplace(response.k, &response).second) {
      throw InputError(fmt::format("response {}: k = {} of prompt {} is there twice, expected each k once", response.id,
                                   response.k, response.prompt_id));
    }
  }
  std::vector<JudgeItem> items;
  for (const Prompt& prompt : prompts) {
    const auto& samples = of_prompt.at(prompt.id);
    for (auto first = samples.begin(); first != samples.end(); ++first) {
      for (auto second = std::next(first); second != samples.end(); ++second) {
        const auto is_cut = [](const Response& response) { return response.finish_reason == "length"; };
        items.push_back(
            {.id = samples.size() == 2 ? prompt.id : fmt::format("{}-{}-{}", prompt.id, first->first, second->first),
             .prompt_id = prompt.id,
             .first_id = first->second->id,
             .second_id = second->second->id,
             .prompt = prompt.text,
             .first = first->second->text,
             .second = second->second->text,
             .truncated = is_cut(*first->second) || is_cut(*second->second)});
      }
    }
  }
  return items;
}

}  // namespace sao
