// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "sao/base/statistics.h"
#include "sao/synth/responses.h"

namespace sao {
namespace {

std::vector<Response> answer_once(Generator& generator, std::vector<Prompt> prompts, const SamplingOptions& sampling,
                                  Seed seed, const char* who) {
  for (Prompt& prompt : prompts) prompt.ids.clear();  // each model has a chat format of its own
  std::vector<Response> answers =
      answer_prompts(generator, prompts, {.samples = 1, .sampling = sampling, .seed = seed});
  for (Response& answer : answers) answer.id = fmt::format("{}-{}", answer.prompt_id, who);
  return answers;
}

double truncated_share(std::span<const Response> answers) {
  const auto cut = std::count_if(answers.begin(), answers.end(),
                                 [](const Response& answer) { return answer.finish_reason == "length"; });
  return answers.empty() ? 0.0 : static_cast<double>(cut) / static_cast<double>(answers.size());
}

}  // namespace

void validate(const CompareOptions& options) {
  std::vector<std::string> problems;
  const auto check = [&](const auto& part) {
    try {
      validate(part);
    } catch (const InputError& error) {
      problems.emplace_back(error.what());
    }
  };
  check(options.sampling);
  check(options.judge);
  check(options.length_control);
  if (!(options.equal_length_tolerance >= 0.0 && options.equal_length_tolerance <= 1.0)) {
    problems.push_back(fmt::format("equal_length_tolerance: {}, expected 0 to 1", options.equal_length_tolerance));
  }
  if (!problems.empty()) throw InputError(fmt::format("CompareOptions: {}", fmt::join(problems, "; ")));
}

double preference_of(const Verdict& verdict, const Response& model, const Response& baseline) {
  if (has_probability(verdict)) return verdict.p_first;
  if (verdict.outcome == "identical") return 0.5;
  if (verdict.outcome == "empty") {
    const bool model_empty = detail::strip(model.text).empty();
    return model_empty == detail::strip(baseline.text).empty() ? 0.5 : model_empty ? 0.0 : 1.0;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

Comparison compare_answers(std::span<const Prompt> prompts, std::vector<Response> model_answers,
                           std::vector<Response> baseline_answers, Generator& judge, const CompareOptions& options,
                           const JudgeTemplates& templates) {
  validate(options);
  if (model_answers.size() != prompts.size() || baseline_answers.size() != prompts.size()) {
    throw InputError(fmt::format("answers: {} and {} for {} prompts, expected one of each a prompt",
                                 model_answers.size(), baseline_answers.size(), prompts.size()));
  }
  std::vector<JudgeItem> items;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Response& model = model_answers[i];
    const Response& baseline = baseline_answers[i];
    if (model.prompt_id != prompts[i].id || baseline.prompt_id != prompts[i].id) {
      throw InputError(fmt::format("answers: number {} is to prompts \"{}\" and \"{}\", expected \"{}\"", i,
                                   model.prompt_id, baseline.prompt_id, prompts[i].id));
    }
    items.push_back({.id = prompts[i].id,
                     .prompt_id = prompts[i].id,
                     .first_id = model.id,
                     .second_id = baseline.id,
                     .prompt = prompts[i].text,
                     .first = model.text,
                     .second = baseline.text,
                     .truncated = model.finish_reason == "length" || baseline.finish_reason == "length"});
  }
  JudgeOptions judge_options = options.judge;
  judge_options.seed = options.seed.fork("judge");
  LengthControlOptions length_control = options.length_control;
  length_control.seed = options.seed.fork("bootstrap");

  Comparison result;
  result.verdicts = judge_pairs(judge, items, judge_options, templates);
  std::vector<double> model_lengths, baseline_lengths;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    result.preferences.push_back(preference_of(result.verdicts[i], model_answers[i], baseline_answers[i]));
    model_lengths.push_back(static_cast<double>(detail::count_characters(model_answers[i].text)));
    baseline_lengths.push_back(static_cast<double>(detail::count_characters(baseline_answers[i].text)));
  }
  result.win_rate = win_rate(result.preferences);
  std::vector<double> decisions = result.preferences;
  for (std::size_t i = 0; i < decisions.size(); ++i) {
    const std::string& outcome = result.verdicts[i].outcome;
    if (outcome == "tie" || outcome == "inconsistent") decisions[i] = 0.5;
  }
  const WinRate discrete = win_rate(decisions);
  result.win_rate.discrete_win_rate = discrete.discrete_win_rate;
  result.win_rate.wins = discrete.wins;
  result.win_rate.losses = discrete.losses;
  result.win_rate.ties = discrete.ties;
  result.length_controlled =
      length_controlled_win_rate(result.preferences, model_lengths, baseline_lengths, length_control);
  result.equal_length =
      equal_length_win_rate(result.preferences, model_lengths, baseline_lengths, options.equal_length_tolerance);
  if (!prompts.empty()) {
    result.model_length = mean(model_lengths);
    result.baseline_length = mean(baseline_lengths);
  }
  result.model_truncated = truncated_share(model_answers);
  result.baseline_truncated = truncated_share(baseline_answers);
  std::vector<Response> all = model_answers;
  all.insert(all.end(), baseline_answers.begin(), baseline_answers.end());
  result.health = judge_health(result.verdicts, all);
  result.model_answers = std::move(model_answers);
  result.baseline_answers = std::move(baseline_answers);
  return result;
}

Comparison compare_models(Generator& model, Generator& baseline, Generator& judge, std::span<const Prompt> prompts,
                          const CompareOptions& options, const JudgeTemplates& templates) {
  validate(options);
  const std::vector<Prompt> questions(prompts.begin(), prompts.end());
  const Seed seed = options.seed.fork("answers");
  return compare_answers(prompts, answer_once(model, questions, options.sampling, seed, "model"),
                         answer_once(baseline, questions, options.sampling, seed, "baseline"), judge, options,
                         templates);
}

}  // namespace sao
