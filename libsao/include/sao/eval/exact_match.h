// SPDX-License-Identifier: Apache-2.0
// Written answers against references: GSM8K and short answers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/log.h"
#include "sao/base/seed.h"
#include "sao/eval/multiple_choice.h"
#include "sao/eval/task.h"
#include "sao/generate/generator.h"

namespace sao {

/// The last number in a text, without thousands separators and trailing zeros.
std::optional<std::string> last_number(std::string_view text);

/// Whether a response gives the reference: the same last number where the reference is one (or ends with `#### x`, as
/// GSM8K's do), else the same text but for case, blanks and punctuation at both ends.
bool answers_match(std::string_view response, std::string_view reference);

/// GSM8K's filters in lm-evaluation-harness: the first `#### x`, and the last thing that looks like a number;
/// "[invalid]" where there is none.
std::string gsm8k_strict(std::string_view response);
std::string gsm8k_flexible(std::string_view response);
/// Its comparison of what a filter found with a reference: without commas, dollar signs, all up to the last `#### `, a
/// full stop at the end, and case.
bool gsm8k_match(std::string_view found, std::string_view reference);

/// What stands before the first of the stop texts; empty ones are ignored.
std::string_view before_stop(std::string_view text, std::span<const std::string> stops);

struct WrittenAnswers {
  Share accuracy = {};                       ///< by answers_match
  std::optional<Share> strict_match = {};    ///< by gsm8k_strict, where every reference has a `#### x`
  std::optional<Share> flexible_match = {};  ///< by gsm8k_flexible
  double truncated = 0;                      ///< share of answers cut at max_new_tokens
  std::int64_t n = 0;
  std::vector<std::string> responses = {};  ///< up to the stop text
};

/// Samples one answer a question, from seed.fork(number of the question), and cuts it at the first of `stops`.
/// Follows: lm_eval 0.4.13, gsm8k.yaml; the model stops at its own stop tokens, the stop texts are cut off afterwards.
WrittenAnswers measure_written_answers(Generator& generator, std::span<const TaskItem> items,
                                       const SamplingOptions& sampling, std::span<const std::string> stops = {},
                                       Seed seed = {}, const ProgressSink& progress = {});

}  // namespace sao
