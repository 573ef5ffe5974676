// SPDX-License-Identifier: Apache-2.0
// Which of several continuations a model finds most likely: ARC, HellaSwag, MMLU, TruthfulQA, Winogrande.
//   sao::MultipleChoice result = sao::measure_multiple_choice(generator, task.items);
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "sao/eval/task.h"
#include "sao/generate/generator.h"

namespace sao {

/// A mean over questions and its standard error, sd / sqrt(n) with ddof 1.
struct Share {
  double value = 0;
  double standard_error = 0;
};

struct MultipleChoice {
  /// Questions whose most likely continuation is the right one ("acc"). With `truths`: the mean share of probability
  /// that the true choices have of all ("acc" of TruthfulQA's mc2).
  Share accuracy = {};
  std::optional<Share> accuracy_norm = {};   ///< log-likelihood over the characters of the choice ("acc_norm")
  std::optional<Share> accuracy_bytes = {};  ///< over its bytes in UTF-8 ("acc_bytes")
  std::int64_t n = 0;
  std::int64_t truncated = 0;                             ///< questions whose context was cut to the model's length
  std::vector<std::vector<double>> log_likelihoods = {};  ///< of each choice of each question, natural logarithm
};

/// Scores every continuation given its context (continuation_request). Of equal ones the first is taken. The
/// normalised accuracies are left out where questions have `truths`.
/// Follows: lm_eval 0.4.13, ConfigurableTask.process_results, and truthfulqa/utils.py.
/// Throws InputError naming the question: a continuation that cannot be scored.
MultipleChoice measure_multiple_choice(Generator& generator, std::span<const TaskItem> items);

}  // namespace sao
