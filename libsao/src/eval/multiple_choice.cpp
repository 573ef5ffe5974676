// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/multiple_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/utf8.h"
#include "eval/share.h"
#include "sao/base/error.h"

namespace sao {
namespace {

std::size_t best(std::span<const double> values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

/// The true choices' share of the probability of all.
double true_share(std::span<const double> log_likelihoods, const std::vector<bool>& truths) {
  const double most = *std::max_element(log_likelihoods.begin(), log_likelihoods.end());
  double all = 0, right = 0;
  for (std::size_t i = 0; i < log_likelihoods.size(); ++i) {
    const double p = std::exp(log_likelihoods[i] - most);
    all += p;
    if (truths[i]) right += p;
  }
  return right / all;
}

}  // namespace

MultipleChoice measure_multiple_choice(Generator& generator, std::span<const TaskItem> items) {
  MultipleChoice result;
  std::vector<ScoreRequest> requests;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const TaskItem& item = items[i];
    bool cut = false;
    for (std::size_t c = 0; c < item.continuations.size(); ++c) {
      const std::string& context = item.contexts.size() == 1 ? item.contexts[0] : item.contexts[c];
      try {
        requests.push_back(
            continuation_request(generator.text(), context, item.continuations[c], generator.max_tokens()));
      } catch (const InputError& error) {
        throw InputError(fmt::format("question {}, choice {}: {}", i + 1, c + 1, error.what()));
      }
      const ScoreRequest& made = requests.back();
      const auto tokens = static_cast<std::int64_t>(made.prompt_ids.size() + made.response_ids.size());
      cut = cut || (tokens == generator.max_tokens() + 1 &&
                    generator.text().encode_text(context).size() > made.prompt_ids.size());
    }
    if (cut) ++result.truncated;
  }
  const std::vector<std::vector<double>> log_probs = generator.score(requests);
  SAO_CHECK(log_probs.size() == requests.size());

  std::vector<double> right, by_character, by_byte;
  bool has_truths = false;
  std::size_t next = 0;
  for (const TaskItem& item : items) {
    std::vector<double> sums;
    for (std::size_t c = 0; c < item.continuations.size(); ++c, ++next) {
      sums.push_back(std::accumulate(log_probs[next].begin(), log_probs[next].end(), 0.0));
    }
    if (!item.truths.empty()) {
      has_truths = true;
      right.push_back(true_share(sums, item.truths));
    } else {
      std::vector<double> characters, bytes;
      for (std::size_t c = 0; c < sums.size(); ++c) {
        characters.push_back(sums[c] / static_cast<double>(detail::count_characters(item.choices[c])));
        bytes.push_back(sums[c] / static_cast<double>(item.choices[c].size()));
      }
      right.push_back(best(sums) == item.right ? 1.0 : 0.0);
      by_character.push_back(best(characters) == item.right ? 1.0 : 0.0);
      by_byte.push_back(best(bytes) == item.right ? 1.0 : 0.0);
    }
    result.log_likelihoods.push_back(std::move(sums));
  }
  result.n = static_cast<std::int64_t>(items.size());
  result.accuracy = detail::share_of(right);
  if (!has_truths) {
    result.accuracy_norm = detail::share_of(by_character);
    result.accuracy_bytes = detail::share_of(by_byte);
  }
  return result;
}

}  // namespace sao
