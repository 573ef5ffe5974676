// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/perplexity.h"

#include <cmath>
#include <numeric>

#include "sao/base/error.h"

namespace sao {

Likelihood measure_likelihood(Generator& generator, std::span<const ScoreRequest> requests) {
  Likelihood result;
  if (requests.empty()) return result;
  const std::vector<std::vector<double>> log_probs = generator.score(requests);
  SAO_CHECK(log_probs.size() == requests.size());
  struct Sequence {
    double loss;
    double tokens;
  };
  std::vector<Sequence> sequences;
  for (const std::vector<double>& of_one : log_probs) {
    if (of_one.empty()) continue;
    const double sum = std::accumulate(of_one.begin(), of_one.end(), 0.0);
    sequences.push_back({-sum, static_cast<double>(of_one.size())});
    result.sum_log_prob += sum;
    result.tokens += static_cast<std::int64_t>(of_one.size());
  }
  result.sequences = static_cast<std::int64_t>(sequences.size());
  if (sequences.empty()) return result;
  const auto tokens = static_cast<double>(result.tokens);
  result.nll = -result.sum_log_prob / tokens;
  result.perplexity = std::exp(result.nll);
  if (sequences.size() > 1) {
    double squares = 0;  // of the residuals of the ratio estimate
    for (const Sequence& sequence : sequences) squares += std::pow(sequence.loss - result.nll * sequence.tokens, 2);
    const auto m = static_cast<double>(sequences.size());
    result.standard_error = std::sqrt(squares * m / (m - 1.0)) / tokens;
  }
  return result;
}

ScoreRequest answer_request(const ChatTokenizer& text, const std::string& prompt, const std::string& answer) {
  ScoreRequest request = {.prompt_ids = text.encode_prompt(prompt),
                          .response_ids = text.encode_text(answer, /*special_tokens=*/false)};
  request.response_ids.push_back(text.turn_end_id());
  return request;
}

}  // namespace sao
