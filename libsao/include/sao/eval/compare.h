// SPDX-License-Identifier: Apache-2.0
// Two models answer the same prompts; a third (or one of them) judges.
//   sao::Comparison c = sao::compare_models(after, before, judge, prompts, {.seed = seed.fork("eval")});
//   c.win_rate.win_rate, c.length_controlled.win_rate
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/data/records.h"
#include "sao/eval/win_rate.h"
#include "sao/generate/generator.h"
#include "sao/judge/health.h"
#include "sao/judge/judge.h"

namespace sao {

struct CompareOptions {
  SamplingOptions sampling = {.temperature = 0.0, .max_new_tokens = 2048};  ///< of the answers; greedy by default
  JudgeOptions judge = {.judge_truncated = true};                           ///< its seed is not used: the one below is
  LengthControlOptions length_control = {};                                 ///< likewise
  double equal_length_tolerance = 0.05;                                     ///< see equal_length_win_rate
  Seed seed = {};  ///< both models draw the answer to prompt p from seed.fork("answers").fork(p.id)
};

template <class Visitor, OptionsOf<CompareOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("sampling", options.sampling, "how answers are sampled");
  visit("judge", options.judge, "how pairs are judged");
  visit("length_control", options.length_control, "the length-controlled win rate");
  visit("equal_length_tolerance", options.equal_length_tolerance, "difference of lengths that counts as equal");
  visit("seed", options.seed, "seed of answers, judge and resamples");
}

/// Throws InputError naming every part out of range.
void validate(const CompareOptions& options);

struct Comparison {
  WinRate win_rate = {};  ///< of the model against the baseline; n counts pairs with a preference
  LengthControlledWinRate length_controlled = {};  ///< by characters
  WinRate equal_length = {};
  double model_length = 0;  ///< mean characters of an answer
  double baseline_length = 0;
  double model_truncated = 0;  ///< share of answers cut at max_new_tokens
  double baseline_truncated = 0;
  JudgeHealth health = {};
  std::vector<double> preferences = {};         ///< one a prompt: P(model's answer is better); NaN where there is none
  std::vector<Response> model_answers = {};     ///< one a prompt; ids "<prompt id>-model"
  std::vector<Response> baseline_answers = {};  ///< "<prompt id>-baseline"
  std::vector<Verdict> verdicts = {};           ///< first = model
};

/// What a verdict on (model, baseline) says as a preference: p_first where the judge gave a probability, whether or
/// not its orders agree; 1/2 for identical answers; an empty answer loses to one with text; NaN for "unparsable",
/// "too_long", and "truncated" (not judged).
double preference_of(const Verdict& verdict, const Response& model, const Response& baseline);

/// Both models answer every prompt once (the text of the prompt, in each model's own chat format), the judge compares
/// them. A prompt that leaves a model no room gets an answer without text and with finish_reason "length", and the
/// verdict "empty". An inconsistent verdict enters the win rate with its combined p, and the discrete one, like a tie,
/// with 1/2. Both models draw from the same seeds, so a model against itself gives identical answers. `judge` may be
/// the same object as either model. Throws InputError: an empty or repeated prompt id, options out of range.
Comparison compare_models(Generator& model, Generator& baseline, Generator& judge, std::span<const Prompt> prompts,
                          const CompareOptions& options = {}, const JudgeTemplates& templates = {});

/// The same for answers that are there already, one a prompt and in the order of the prompts.
/// Throws InputError: answers that do not match the prompts.
Comparison compare_answers(std::span<const Prompt> prompts, std::vector<Response> model_answers,
                           std::vector<Response> baseline_answers, Generator& judge, const CompareOptions& options = {},
                           const JudgeTemplates& templates = {});

}  // namespace sao
