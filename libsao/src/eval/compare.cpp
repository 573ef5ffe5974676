// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <unordered_set>
#include <utility>

#include "sao/base/error.h"
#include "sao/base/statistics.h"

namespace sao {
namespace {

double characters(const std::string& text) {
  const auto starts_code_point = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return static_cast<double>(std::count_if(text.begin(), text.end(), starts_code_point));
}

bool is_blank(const std::string& text) { return text.find_first_not_of(" \t\r\n\f\v") == std::string::npos; }

void check_ids(std::span<const Prompt> prompts) {
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].id.empty() || !seen.insert(prompts[i].id).second) {
      throw InputError(fmt::format("prompts: number {} has the id \"{}\", expected one of its own", i, prompts[i].id));
    }
  }
}

std::vector<Response> answer_once(Generator& generator, std::span<const Prompt> prompts,
                                  const SamplingOptions& sampling, Seed seed, const char* who) {
  std::vector<Response> answers(prompts.size());
  std::vector<GenerationRequest> requests;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Seed own = seed.fork(prompts[i].id);
    answers[i] = {.id = fmt::format("{}-{}", prompts[i].id, who), .prompt_id = prompts[i].id, .seed = own.value};
    requests.push_back({.prompt_ids = generator.text().encode_prompt(prompts[i].text), .seed = own});
  }
  generator.generate(requests, sampling, [&](std::size_t request, std::int64_t, Completion completion) {
    answers[request].text = generator.text().response_text(completion.ids);
    answers[request].finish_reason = to_string(completion.finish_reason);
    answers[request].ids = std::move(completion.ids);
  });
  return answers;
}

double truncated_share(std::span<const Response> answers) {
  const auto cut = std::count_if(answers.begin(), answers.end(),
                                 [](const Response& answer) { return answer.finish_reason == "length"; });
  return answers.empty() ? 0.0 : static_cast<double>(cut) / static_cast<double>(answers.size());
}

}  // namespace

double preference_of(const Verdict& verdict, const Response& model, const Response& baseline) {
  const std::string& outcome = verdict.outcome;
  if (outcome == "first" || outcome == "second" || outcome == "tie" || outcome == "inconsistent")
    return verdict.p_first;
  if (outcome == "identical") return 0.5;
  if (outcome == "empty") {
    const bool model_empty = is_blank(model.text);
    return model_empty == is_blank(baseline.text) ? 0.5 : model_empty ? 0.0 : 1.0;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

Comparison compare_answers(std::span<const Prompt> prompts, std::vector<Response> model_answers,
                           std::vector<Response> baseline_answers, Generator& judge, const CompareOptions& options,
                           const JudgeTemplates& templates) {
  check_ids(prompts);
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
    model_lengths.push_back(characters(model_answers[i].text));
    baseline_lengths.push_back(characters(baseline_answers[i].text));
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
  check_ids(prompts);
  validate(options.sampling);
  validate(options.judge);
  const Seed seed = options.seed.fork("answers");
  return compare_answers(prompts, answer_once(model, prompts, options.sampling, seed, "model"),
                         answer_once(baseline, prompts, options.sampling, seed, "baseline"), judge, options, templates);
}

}  // namespace sao
