// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/utf8.h"
#include "sao/base/error.h"

namespace sao {

namespace {

struct Sequence {
  double log_prob = 0;
  std::int64_t tokens = 0;
};

/// Sequences without tokens are left out.
Likelihood summarize(std::span<const Sequence> all) {
  Likelihood result;
  for (const Sequence& sequence : all) {
    if (sequence.tokens == 0) continue;
    ++result.sequences;
    result.sum_log_prob += sequence.log_prob;
    result.tokens += sequence.tokens;
  }
  if (result.sequences == 0) return result;
  const auto tokens = static_cast<double>(result.tokens);
  result.nll = -result.sum_log_prob / tokens;
  result.perplexity = std::exp(result.nll);
  if (result.sequences > 1) {
    double squares = 0;  // of the residuals of the ratio estimate
    for (const Sequence& sequence : all) {
      squares += std::pow(-sequence.log_prob - result.nll * static_cast<double>(sequence.tokens), 2);
    }
    const auto m = static_cast<double>(result.sequences);
    result.standard_error = std::sqrt(squares * m / (m - 1.0)) / tokens;
  }
  return result;
}

}  // namespace

Likelihood measure_likelihood(Generator& generator, std::span<const ScoreRequest> requests) {
  if (requests.empty()) return {};
  const std::vector<std::vector<double>> log_probs = generator.score(requests);
  SAO_CHECK(log_probs.size() == requests.size());
  std::vector<Sequence> sequences;
  for (const std::vector<double>& of_one : log_probs) {
    sequences.push_back({std::accumulate(of_one.begin(), of_one.end(), 0.0), static_cast<std::int64_t>(of_one.size())});
  }
  return summarize(sequences);
}

ScoreRequest answer_request(const ChatTokenizer& text, const std::string& prompt, const std::string& answer) {
  ScoreRequest request = {.prompt_ids = text.encode_prompt(prompt),
                          .response_ids = text.encode_text(answer, /*special_tokens=*/false)};
  request.response_ids.push_back(text.turn_end_id());
  return request;
}

std::vector<ScoreRequest> rolling_windows(TokenSpan tokens, TokenId prefix, std::int64_t max_length,
                                          std::int64_t context_length) {
  if (max_length < 1 || context_length < 1 || context_length > max_length) {
    throw InputError(fmt::format("context_length: {}, expected 1 to {}, the length of a window", context_length,
                                 std::max<std::int64_t>(max_length, 1)));
  }
  std::vector<ScoreRequest> windows;
  const auto longest = static_cast<std::size_t>(max_length);
  const std::size_t step = longest - static_cast<std::size_t>(context_length) + 1;
  for (std::size_t done = 0; done < tokens.size();) {
    const std::size_t count = std::min(tokens.size() - done, done == 0 ? longest : step);
    ScoreRequest& window = windows.emplace_back();
    if (done == 0) {
      window.prompt_ids = {prefix};
    } else {
      // As many tokens as are read, the last predicted one not among them.
      const TokenSpan before = tokens.subspan(done + count - longest - 1, longest - count + 1);
      window.prompt_ids.assign(before.begin(), before.end());
    }
    const TokenSpan predicted = tokens.subspan(done, count);
    window.response_ids.assign(predicted.begin(), predicted.end());
    done += count;
  }
  return windows;
}

std::int64_t count_words(std::string_view text) {
  std::int64_t words = 1;
  bool in_space = false;
  while (!text.empty()) {
    const std::size_t length = std::max<std::size_t>(detail::character_length(text), 1);
    const bool space = detail::is_space(detail::code_point(text));
    if (space && !in_space) ++words;
    in_space = space;
    text.remove_prefix(length);
  }
  return words;
}

TextLikelihood measure_text(Generator& generator, std::span<const TaskItem> texts, const RollingOptions& options) {
  const ChatTokenizer& text = generator.text();
  const auto bos = text.tokenizer().bos_id();
  const auto prefix = bos ? bos : text.tokenizer().eos_id();
  if (!prefix) throw InputError("the tokenizer has neither bos nor eos, expected one to stand before the first token");
  if (options.max_length < 0 || options.max_length > generator.max_tokens()) {
    throw InputError(fmt::format("max_length: {}, expected 0 to {}, the model's context", options.max_length,
                                 generator.max_tokens()));
  }
  const std::int64_t max_length = options.max_length == 0 ? generator.max_tokens() : options.max_length;
  std::vector<ScoreRequest> requests;
  std::vector<std::size_t> windows;  // of each text
  TextLikelihood result;
  for (const TaskItem& item : texts) {
    std::vector<ScoreRequest> of_one =
        rolling_windows(text.encode_text(item.text), *prefix, max_length, options.context_length);
    windows.push_back(of_one.size());
    requests.insert(requests.end(), of_one.begin(), of_one.end());
    result.words += count_words(item.counted_text);
    result.bytes += static_cast<std::int64_t>(item.counted_text.size());
  }
  const std::vector<std::vector<double>> log_probs =
      requests.empty() ? std::vector<std::vector<double>>() : generator.score(requests);
  std::vector<Sequence> sequences;
  std::size_t next = 0;
  for (const std::size_t count : windows) {
    Sequence sequence;
    for (std::size_t i = 0; i < count; ++i, ++next) {
      sequence.log_prob += std::accumulate(log_probs[next].begin(), log_probs[next].end(), 0.0);
      sequence.tokens += static_cast<std::int64_t>(log_probs[next].size());
    }
    sequences.push_back(sequence);
    result.log_likelihoods.push_back(sequence.log_prob);
  }
  result.tokens = summarize(sequences);
  const double sum = result.tokens.sum_log_prob;
  if (result.words > 0) result.word_perplexity = std::exp(-sum / static_cast<double>(result.words));
  if (result.bytes > 0) {
    result.byte_perplexity = std::exp(-sum / static_cast<double>(result.bytes));
    result.bits_per_byte = -sum / static_cast<double>(result.bytes) / std::numbers::ln2;
  }
  return result;
}

}  // namespace sao
