// SPDX-License-Identifier: Apache-2.0
#include "evaluation.h"

#include <algorithm>
#include <bit>
#include <set>
#include <sstream>

#include "oracle.h"
#include "sao/judge/judge.h"
#include "templates.h"
#include "world.h"

namespace microworld {
namespace {

int count_words(const std::string& text) {
  std::istringstream stream(text);
  std::string word;
  int count = 0;
  while (stream >> word) ++count;
  return count;
}

sao::TokenIds turn_ids(const sao::Generator& model, const std::string& text) {
  sao::TokenIds ids = model.text().tokenizer().encode(text, false);
  ids.push_back(model.text().turn_end_id());
  return ids;
}

double mean_loss(sao::Generator& model, std::span<const sao::ScoreRequest> requests) {
  double sum = 0.0;
  std::size_t tokens = 0;
  for (const std::vector<double>& log_probs : model.score(requests)) {
    for (const double log_prob : log_probs) sum -= log_prob;
    tokens += log_probs.size();
  }
  return sum / static_cast<double>(std::max<std::size_t>(tokens, 1));
}

}  // namespace

double Answers::mean_score() const {
  double sum = 0.0;
  for (const int score : scores) sum += score;
  return sum / static_cast<double>(scores.size());
}

double Answers::mean_words() const {
  double sum = 0.0;
  for (const int count : words) sum += count;
  return sum / static_cast<double>(words.size());
}

double Answers::share(Flaws any_of) const {
  const auto hit = [any_of](Flaws f) { return (f & any_of) != 0; };
  return static_cast<double>(std::count_if(flaws.begin(), flaws.end(), hit)) / static_cast<double>(flaws.size());
}

double Answers::clean_share() const {
  return static_cast<double>(std::count(flaws.begin(), flaws.end(), Flaws{0})) / static_cast<double>(flaws.size());
}

std::vector<std::string> held_out_requests(std::uint64_t seed, std::size_t count) {
  std::vector<std::string> requests;
  std::set<std::string> seen;
  for (std::uint64_t i = 0; requests.size() < count && i < 100 * count; ++i) {
    const std::string text = compose_any_request(seed, i, Split::kHeldOut).text;
    if (seen.insert(text).second) requests.push_back(text);
  }
  return requests;
}

Answers answer_requests(sao::Generator& model, std::span<const std::string> requests, double temperature,
                        sao::Seed seed, const std::string& opening) {
  const sao::TokenIds opening_ids = model.text().tokenizer().encode(opening, false);
  std::vector<sao::GenerationRequest> batch;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    batch.push_back({.prompt_ids = model.text().encode_prompt(requests[i]), .seed = seed.fork(i)});
    batch.back().prompt_ids.insert(batch.back().prompt_ids.end(), opening_ids.begin(), opening_ids.end());
  }
  Answers answers;
  for (const auto& samples : model.generate_all(batch, {.temperature = temperature, .max_new_tokens = 96})) {
    answers.texts.push_back(opening + model.text().response_text(samples[0].ids));
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Assessment assessment =
        assess(requests[i], answers.texts[i]).value_or(Assessment{.flaws = kOffTopic, .score = 0});
    answers.scores.push_back(assessment.score);
    answers.flaws.push_back(assessment.flaws);
    answers.words.push_back(count_words(answers.texts[i]));
  }
  return answers;
}

Comparison compare(const Answers& before, const Answers& after) {
  std::vector<double> preferences, before_words, after_words;
  for (std::size_t i = 0; i < before.scores.size(); ++i) {
    preferences.push_back(after.scores[i] > before.scores[i] ? 1.0 : after.scores[i] < before.scores[i] ? 0.0 : 0.5);
    before_words.push_back(before.words[i]);
    after_words.push_back(after.words[i]);
  }
  return {.win = sao::win_rate(preferences),
          .length_controlled = sao::length_controlled_win_rate(preferences, after_words, before_words),
          .equal_length = sao::equal_length_win_rate(preferences, after_words, before_words, 0.0)};
}

Health check_health(sao::Generator& model, std::uint64_t seed, std::size_t count) {
  Health health;

  std::vector<sao::JudgeItem> items;
  std::vector<Judgement> judgements;
  for (std::size_t i = 0; i < 2 * count; ++i) {
    judgements.push_back(compose_judgement(seed, i, Split::kHeldOut));
    const Judgement& j = judgements.back();
    items.push_back(
        {.id = std::to_string(i), .prompt = j.request.text, .first = j.first.text, .second = j.second.text});
  }
  const sao::JudgeTemplates templates{.judge = std::string(kJudgeTemplate),
                                      .judge_prefix = std::string(kJudgePrefix),
                                      .judge_first = std::string(kJudgeFirst),
                                      .judge_second = std::string(kJudgeSecond),
                                      .criteria = {}};
  const std::vector<sao::Verdict> verdicts = sao::judge_pairs(model, items, {}, templates);
  double right = 0.0;
  std::array<double, kFlawCount> right_by_flaw{}, count_by_flaw{};
  for (std::size_t i = 0; i < verdicts.size(); ++i) {
    const double p = judgements[i].first_is_better ? verdicts[i].p_first : 1.0 - verdicts[i].p_first;
    const double hit = p > 0.5 ? 1.0 : p < 0.5 ? 0.0 : 0.5;
    right += hit;
    const Flaws difference = judgements[i].first.flaws ^ judgements[i].second.flaws;
    if (std::popcount(difference) == 1) {
      const std::size_t flaw = static_cast<std::size_t>(std::countr_zero(difference));
      right_by_flaw[flaw] += hit;
      count_by_flaw[flaw] += 1.0;
    }
  }
  health.judge_accuracy = right / static_cast<double>(verdicts.size());
  for (std::size_t f = 0; f < kFlawCount; ++f) {
    health.judge_accuracy_by_flaw[f] = count_by_flaw[f] > 0.0 ? right_by_flaw[f] / count_by_flaw[f] : 0.5;
  }

  std::vector<sao::ScoreRequest> requests, answers;
  for (std::size_t i = 0; i < count; ++i) {
    const Persona persona = compose_persona(seed, i, Split::kHeldOut);
    const Request request = compose_request(seed, i, persona, Split::kHeldOut);
    requests.push_back({.prompt_ids = model.text().encode_prompt(persona_prompt(persona.text)),
                        .response_ids = turn_ids(model, request.text)});
    answers.push_back({.prompt_ids = model.text().encode_prompt(request.text),
                       .response_ids = turn_ids(model, compose_answer(request, 0, true, seed + i).text)});
  }
  health.request_loss = mean_loss(model, requests);
  health.clean_answer_loss = mean_loss(model, answers);
  return health;
}

}  // namespace microworld
