// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/filters.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_set>
#include <vector>

#include "sao/base/error.h"
#include "synth/minhash.h"
#include "synth/words.h"

namespace sao {
namespace {

using detail::Script;
using detail::trimmed;

struct QuotePair {
  std::string_view open;
  std::string_view close;
};
constexpr std::array<QuotePair, 13> kQuotes = {{{"**", "**"},
                                                {"__", "__"},
                                                {"*", "*"},
                                                {"```", "```"},
                                                {"`", "`"},
                                                {"\"", "\""},
                                                {"'", "'"},
                                                {"“", "”"},
                                                {"„", "“"},
                                                {"‘", "’"},
                                                {"«", "»"},
                                                {"「", "」"},
                                                {"[", "]"}}};

/// Takes off one pair of quotes around the whole text, unless one of them also stands inside.
bool strip_quotes(std::string_view& text) {
  for (const auto& [open, close] : kQuotes) {
    if (text.size() < open.size() + close.size() || !text.starts_with(open) || !text.ends_with(close)) continue;
    const std::string_view inside = text.substr(open.size(), text.size() - open.size() - close.size());
    if (inside.find(open) != std::string_view::npos || inside.find(close) != std::string_view::npos) continue;
    text = trimmed(inside);
    return true;
  }
  return false;
}

bool equals_ignoring_case(std::string_view text, std::string_view lower_case) {
  return text.size() == lower_case.size() &&
         std::equal(text.begin(), text.end(), lower_case.begin(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? static_cast<char>(a + 32) : a) == b; });
}

/// Where the text after a "User prompt:" head at the start of `line` begins, and the quotes that the head left open.
struct Head {
  std::size_t end = 0;
  std::vector<QuotePair> open_quotes = {};
};

std::optional<Head> find_head(std::string_view line) {
  Head head;
  std::size_t& at = head.end;
  const auto skip = [&](std::string_view expected) {
    if (!line.substr(at).starts_with(expected)) return false;
    at += expected.size();
    return true;
  };
  const auto skip_blanks = [&] {
    while (at < line.size() && (line[at] == ' ' || line[at] == '\t')) ++at;
  };
  const auto close_quotes = [&] {
    while (!head.open_quotes.empty() && skip(head.open_quotes.back().close)) head.open_quotes.pop_back();
  };

  skip_blanks();
  while (skip("#") || skip(">")) skip_blanks();
  for (bool opened = true; opened;) {
    opened = false;
    for (const QuotePair& quote : kQuotes) {
      if (!skip(quote.open)) continue;
      head.open_quotes.push_back(quote);
      opened = true;
      break;
    }
  }
  constexpr std::string_view kUser = "user";
  constexpr std::string_view kPrompt = "prompt";
  if (!equals_ignoring_case(line.substr(at, kUser.size()), kUser)) return std::nullopt;
  at += kUser.size();
  skip("'s") || skip("’s") || skip("-") || skip("_");
  skip_blanks();
  if (!equals_ignoring_case(line.substr(at, kPrompt.size()), kPrompt)) return std::nullopt;
  at += kPrompt.size();
  close_quotes();
  skip_blanks();
  if (!skip(":") && !skip("：")) return std::nullopt;
  close_quotes();
  return head;
}

/// The text after the first head, up to the next one; nothing when there is no head.
std::optional<std::string_view> text_after_head(std::string_view text) {
  std::optional<std::size_t> begin;
  std::size_t end = text.size();
  std::vector<QuotePair> open_quotes;
  for (std::size_t line = 0; line < text.size();) {
    const std::size_t line_end = std::min(text.find('\n', line), text.size());
    if (const auto head = find_head(text.substr(line, line_end - line))) {
      const bool says_something = begin && !trimmed(text.substr(*begin, line - *begin)).empty();
      if (says_something) {
        end = line;
        break;
      }
      begin = line + head->end;
      open_quotes = head->open_quotes;
    }
    line = line_end + 1;
  }
  if (!begin) return std::nullopt;
  std::string_view rest = trimmed(text.substr(*begin, end - *begin));
  for (auto quote = open_quotes.rbegin(); quote != open_quotes.rend(); ++quote) {
    if (rest.ends_with(quote->close)) rest = trimmed(rest.substr(0, rest.size() - quote->close.size()));
  }
  return rest;
}

std::vector<Script> parse_scripts(std::string_view list, std::vector<std::string>& problems) {
  std::vector<Script> scripts;
  while (!trimmed(list).empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view name = trimmed(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
    const Script script = detail::find_script(name);
    if (script == Script::kNone) {
      problems.push_back(fmt::format("scripts: \"{}\", expected names among {}", name, detail::script_names()));
    }
    scripts.push_back(script);
  }
  return scripts;
}

std::vector<std::string> problems_of(const PromptFilters& filters) {
  std::vector<std::string> problems;
  const auto check = [&](bool good, const char* field, auto value, const char* expected) {
    if (!good) problems.push_back(fmt::format("{}: {}, expected {}", field, value, expected));
  };
  const auto is_share = [](double x) { return x >= 0.0 && x <= 1.0; };
  check(filters.min_characters >= 1, "min_characters", filters.min_characters, "at least 1");
  check(filters.max_characters >= filters.min_characters, "max_characters", filters.max_characters,
        "at least min_characters");
  check(is_share(filters.min_letter_share), "min_letter_share", filters.min_letter_share, "0 to 1");
  check(is_share(filters.min_script_share), "min_script_share", filters.min_script_share, "0 to 1");
  check(filters.near_duplicate_threshold >= 0.7 && filters.near_duplicate_threshold <= 1.0, "near_duplicate_threshold",
        filters.near_duplicate_threshold, "0.7 to 1");
  check(filters.near_duplicate_ngram >= 1, "near_duplicate_ngram", filters.near_duplicate_ngram, "at least 1");
  parse_scripts(filters.scripts, problems);
  return problems;
}

}  // namespace

std::string clean_prompt(std::string_view written) {
  std::string_view text = trimmed(written);
  for (bool changed = true; changed;) {
    changed = strip_quotes(text);
    if (const auto rest = text_after_head(text)) {
      text = *rest;
      changed = true;
    }
  }
  return std::string(text);
}

void validate(const PromptFilters& filters) {
  const std::vector<std::string> problems = problems_of(filters);
  if (!problems.empty()) throw InputError(fmt::format("PromptFilters: {}", fmt::join(problems, "; ")));
}

struct PromptFilter::Impl {
  PromptFilters filters;
  std::vector<Script> scripts;
  std::unordered_set<std::string> kept;
  detail::NearDuplicateIndex near;

  explicit Impl(const PromptFilters& options) : filters(options), near(options.near_duplicate_threshold) {
    validate(options);
    std::vector<std::string> problems;
    scripts = parse_scripts(options.scripts, problems);
  }

  /// "not_text", "language" or nothing.
  std::string_view script_problem(std::string_view text) const {
    double letters = 0, allowed = 0, others = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      const Script script = detail::script_of(detail::next_code_point(text, at));
      if (script == Script::kMark || trimmed(text.substr(begin, at - begin)).empty()) continue;
      if (script == Script::kNone || script == Script::kDigit) {
        ++others;
      } else {
        ++letters;
        if (std::find(scripts.begin(), scripts.end(), script) != scripts.end()) ++allowed;
      }
    }
    if (letters < filters.min_letter_share * (letters + others)) return "not_text";
    if (!scripts.empty() && allowed < filters.min_script_share * letters) return "language";
    return {};
  }

  std::string decide(std::string_view text) {
    text = trimmed(text);
    if (text.empty()) return "empty";
    const std::int64_t length = detail::code_points(text);
    if (length < filters.min_characters) return "too_short";
    if (length > filters.max_characters) return "too_long";
    if (const std::string_view problem = script_problem(text); !problem.empty()) return std::string(problem);

    const std::vector<std::string> words = detail::words(text);
    std::string key = fmt::format("{}", fmt::join(words, " "));
    if (key.empty()) key = text;  // no word at all: only an equal text is a duplicate
    if (filters.drop_duplicates && kept.contains(key)) return "duplicate";
    if (filters.drop_near_duplicates && !words.empty()) {
      detail::Shingles shingles = detail::shingles(words, filters.near_duplicate_ngram);
      if (!near.find(shingles, /*first_only=*/true).empty() && !(kept.contains(key) && !filters.drop_duplicates)) {
        return "near_duplicate";
      }
      near.add(std::move(shingles));
    }
    kept.insert(std::move(key));
    return "kept";
  }
};

PromptFilter::PromptFilter(const PromptFilters& filters) : impl_(std::make_unique<Impl>(filters)) {}
PromptFilter::~PromptFilter() = default;
PromptFilter::PromptFilter(PromptFilter&&) noexcept = default;
PromptFilter& PromptFilter::operator=(PromptFilter&&) noexcept = default;

std::string PromptFilter::decide(std::string_view text) { return impl_->decide(text); }

void filter_prompts(std::span<Prompt> prompts, const PromptFilters& filters) {
  PromptFilter filter(filters);
  for (Prompt& prompt : prompts) {
    if (prompt.outcome == "truncated" || prompt.outcome == "no_room") continue;
    prompt.outcome = filter.decide(prompt.text);
  }
}

std::map<std::string, std::int64_t> count_outcomes(std::span<const Prompt> prompts) {
  std::map<std::string, std::int64_t> counts;
  for (const Prompt& prompt : prompts) ++counts[prompt.outcome];
  return counts;
}

}  // namespace sao
