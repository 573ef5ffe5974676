// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/exact_match.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "eval/share.h"
#include "sao/base/error.h"

namespace sao {
namespace {

constexpr std::string_view kReferenceMark = "#### ";
constexpr std::string_view kInvalid = "[invalid]";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

/// Lower case, blanks as single ones, without punctuation at both ends.
std::string normalized(std::string_view text) {
  std::string plain;
  for (const char c : text) {
    if (is_space(c)) {
      if (!plain.empty() && plain.back() != ' ') plain += ' ';
    } else {
      plain += lower(c);
    }
  }
  const auto is_edge = [](char c) { return c == ' ' || (is_punctuation(c) && c != '-'); };
  while (!plain.empty() && is_edge(plain.back())) plain.pop_back();
  const auto begin = std::find_if_not(plain.begin(), plain.end(), is_edge);
  return {begin, plain.end()};
}

/// What stands behind "####" where it does.
std::string_view reference_answer(std::string_view answer) {
  const std::size_t mark = answer.rfind("####");
  return mark == std::string_view::npos ? answer : answer.substr(mark + 4);
}

bool has_mark(const TaskItem& item) {
  return std::all_of(item.answers.begin(), item.answers.end(),
                     [](const std::string& answer) { return answer.find(kReferenceMark) != std::string::npos; });
}

/// The regular expressions that lm_eval's gsm8k takes away from both sides, one after the other.
std::string for_gsm8k(std::string_view text) {
  std::string left;
  for (const char c : text) {
    if (c != ',' && c != '$') left += lower(c);
  }
  if (const std::size_t mark = left.rfind(kReferenceMark); mark != std::string::npos) {
    left.erase(0, mark + kReferenceMark.size());
  }
  // "\.$" holds at the end and before a last line break.
  if (left.ends_with('.')) {
    left.pop_back();
  } else if (left.ends_with(".\n")) {
    left.erase(left.size() - 2, 1);
  }
  return left;
}

}  // namespace

std::optional<std::string> last_number(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0 && !is_digit(text[end - 1])) --end;
  if (end == 0) return std::nullopt;
  std::size_t begin = end;
  const auto belongs = [&](std::size_t i) {
    return is_digit(text[i]) || ((text[i] == ',' || text[i] == '.') && i > 0 && is_digit(text[i - 1]));
  };
  while (begin > 0 && belongs(begin - 1)) --begin;
  const bool negative = begin > 0 && text[begin - 1] == '-';
  std::string number(text.substr(begin, end - begin));
  number.erase(std::remove(number.begin(), number.end(), ','), number.end());
  if (number.find('.') != std::string::npos) {
    while (number.back() == '0') number.pop_back();
    if (number.back() == '.') number.pop_back();
  }
  return (negative ? "-" : "") + number;
}

bool answers_match(std::string_view response, std::string_view reference) {
  const std::string_view wanted = reference_answer(reference);
  const std::optional<std::string> number = last_number(wanted);
  if (number && normalized(wanted).find_first_not_of("0123456789.,-$% ") == std::string::npos) {
    return last_number(response) == number;
  }
  return normalized(response) == normalized(wanted);
}

std::string gsm8k_strict(std::string_view response) {
  const auto belongs = [](char c) { return is_digit(c) || c == '.' || c == ','; };
  for (std::size_t at = 0; (at = response.find(kReferenceMark, at)) != std::string_view::npos; ++at) {
    const std::size_t begin = at + kReferenceMark.size();
    std::size_t end = begin + (begin < response.size() && response[begin] == '-' ? 1 : 0);
    const std::size_t digits = end;
    while (end < response.size() && belongs(response[end])) ++end;
    if (end > digits) return std::string(response.substr(begin, end - begin));
  }
  return std::string(kInvalid);
}

std::string gsm8k_flexible(std::string_view response) {
  const auto belongs = [](char c) { return is_digit(c) || c == '.' || c == ',' || c == '$'; };
  std::string_view last = kInvalid;
  for (std::size_t at = 0; at < response.size();) {
    const std::size_t body = at + (response[at] == '-' ? 1 : 0);
    std::size_t end = body;
    while (end < response.size() && belongs(response[end])) ++end;
    // Two of these characters, or one digit; a minus may stand before both.
    if (end >= body + 2 || (end == body + 1 && is_digit(response[body]))) {
      last = response.substr(at, end - at);
      at = end;
    } else {
      ++at;
    }
  }
  return std::string(last);
}

bool gsm8k_match(std::string_view found, std::string_view reference) {
  return for_gsm8k(found) == for_gsm8k(reference);
}

std::string_view before_stop(std::string_view text, std::span<const std::string> stops) {
  for (const std::string& stop : stops) {
    if (!stop.empty()) text = text.substr(0, text.find(stop));
  }
  return text;
}

WrittenAnswers measure_written_answers(Generator& generator, std::span<const TaskItem> items,
                                       const SamplingOptions& sampling, std::span<const std::string> stops, Seed seed,
                                       const ProgressSink& progress) {
  const ChatTokenizer& text = generator.text();
  std::vector<GenerationRequest> requests;
  for (const TaskItem& item : items) {
    SAO_CHECK(item.contexts.size() == 1 && !item.answers.empty());
    requests.push_back(
        {.prompt_ids = context_ids(text, item.contexts[0], generator.max_tokens(), sampling.max_new_tokens),
         .seed = seed.fork(requests.size())});
  }
  WrittenAnswers result = {.n = static_cast<std::int64_t>(items.size())};
  result.responses.resize(items.size());
  std::vector<double> right(items.size()), strict(items.size()), flexible(items.size()), cut(items.size());
  std::size_t done = 0;
  generator.generate(requests, sampling, [&](std::size_t i, std::int64_t, const Completion& completion) {
    TokenSpan ids = completion.ids;
    if (completion.finish_reason == FinishReason::kStop && !ids.empty()) ids = ids.first(ids.size() - 1);
    const std::string whole = text.decode(ids);
    const std::string_view response = before_stop(whole, stops);
    const auto any = [&](const auto& matches) {
      return std::any_of(items[i].answers.begin(), items[i].answers.end(), matches) ? 1.0 : 0.0;
    };
    right[i] = any([&](const std::string& answer) { return answers_match(response, answer); });
    strict[i] = any([&](const std::string& answer) { return gsm8k_match(gsm8k_strict(response), answer); });
    flexible[i] = any([&](const std::string& answer) { return gsm8k_match(gsm8k_flexible(response), answer); });
    cut[i] = completion.finish_reason == FinishReason::kLength && response.size() == whole.size() ? 1.0 : 0.0;
    result.responses[i] = response;
    ++done;
    if (progress) progress("answers", done, items.size());
  });
  result.accuracy = detail::share_of(right);
  result.truncated = items.empty() ? 0.0 : mean(cut);
  if (!items.empty() && std::all_of(items.begin(), items.end(), has_mark)) {
    result.strict_match = detail::share_of(strict);
    result.flexible_match = detail::share_of(flexible);
  }
  return result;
}

}  // namespace sao
