// SPDX-License-Identifier: Apache-2.0
// A Generator without a model: its answers are functions of the text that it is shown.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sao/generate/generator.h"
#include "support/paths.h"

namespace sao::testing {

/// The text side of every fake: SentencePiece with Gemma's settings and turns, 400 pieces.
inline ChatTokenizer small_chat_tokenizer() { return ChatTokenizer::load(golden("text/gemma")); }

class FakeGenerator : public Generator {
 public:
  struct Answer {
    std::string text = {};
    FinishReason finish_reason = FinishReason::kStop;
  };

  /// The script. `shown` is the whole context as text, turn tokens included.
  std::function<Answer(const std::string& shown, Seed seed, std::int64_t sample)> answer =
      [](const std::string&, Seed, std::int64_t) { return Answer{.text = "An answer."}; };
  /// P(first candidate) of two; the rest of the vocabulary gets nothing.
  std::function<double(const std::string& shown)> first_probability = [](const std::string&) { return 0.5; };
  /// Log-prob of every token of a response.
  std::function<double(const std::string& shown, const std::string& response)> token_log_prob =
      [](const std::string&, const std::string&) { return -1.0; };
  std::int64_t max_tokens_value = 1 << 20;
  bool backwards = false;  ///< completions arrive in reverse order

  // What was asked for.
  std::vector<GenerationRequest> generated = {};
  std::vector<NextTokenRequest> next_token_requests = {};
  std::int64_t calls = 0;

  explicit FakeGenerator(ChatTokenizer text = small_chat_tokenizer()) : text_(std::move(text)) {}

  void generate(std::span<const GenerationRequest> requests, const SamplingOptions&,
                const OnCompletion& on_completion) override {
    ++calls;
    generated.insert(generated.end(), requests.begin(), requests.end());
    std::vector<std::pair<std::size_t, std::int64_t>> order;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      for (std::int64_t k = 0; k < requests[i].samples; ++k) order.emplace_back(i, k);
    }
    if (backwards) std::reverse(order.begin(), order.end());
    for (const auto& [i, k] : order) {
      const Answer said = answer(text_.decode(requests[i].prompt_ids, /*skip_special=*/false), requests[i].seed, k);
      Completion completion = {.ids = text_.encode_text(said.text, /*special_tokens=*/false),
                               .finish_reason = said.finish_reason};
      if (said.finish_reason == FinishReason::kStop) completion.ids.push_back(text_.turn_end_id());
      on_completion(i, k, std::move(completion));
    }
  }

  std::vector<std::vector<double>> score(std::span<const ScoreRequest> requests) override {
    std::vector<std::vector<double>> result;
    for (const ScoreRequest& request : requests) {
      const double each = token_log_prob(text_.decode(request.prompt_ids), text_.decode(request.response_ids));
      result.emplace_back(request.response_ids.size(), each);
    }
    return result;
  }

  std::vector<std::vector<double>> next_token_log_probs(std::span<const NextTokenRequest> requests) override {
    ++calls;
    next_token_requests.insert(next_token_requests.end(), requests.begin(), requests.end());
    std::vector<std::vector<double>> result;
    for (const NextTokenRequest& request : requests) {
      const double p = first_probability(text_.decode(request.ids, /*skip_special=*/false));
      result.push_back({std::log(p), std::log1p(-p)});
    }
    return result;
  }

  const ChatTokenizer& text() const override { return text_; }
  std::int64_t max_tokens() const override { return max_tokens_value; }

 private:
  ChatTokenizer text_;
};

}  // namespace sao::testing
