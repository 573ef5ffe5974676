// SPDX-License-Identifier: Apache-2.0
#include "experiment.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "oracle.h"
#include "sao/base/statistics.h"
#include "sao/generate/engine.h"
#include "sao/judge/judge.h"
#include "sao/judge/pairs.h"
#include "sao/synth/diversity.h"
#include "sao/synth/prompts.h"
#include "sao/synth/responses.h"
#include "sao/train/trainer.h"
#include "templates.h"
#include "world.h"

namespace microworld {
namespace {

const sao::PromptTemplates kPrompts{.persona = std::string(kPersonaTemplate),
                                    .unguided = std::string(kUnguidedTemplate)};

sao::JudgeTemplates judge_templates() {
  return {.judge = std::string(kJudgeTemplate),
          .judge_prefix = std::string(kJudgePrefix),
          .judge_first = std::string(kJudgeFirst),
          .judge_second = std::string(kJudgeSecond),
          .criteria = {}};
}

std::vector<sao::Persona> personas(sao::Seed seed, std::int64_t count) {
  std::vector<sao::Persona> list;
  for (std::int64_t i = 0; i < count; ++i) {
    list.push_back({.text = compose_persona(seed.value, static_cast<std::uint64_t>(i), Split::kHeldOut).text});
  }
  return list;
}

int oracle_score(const std::string& request, const std::string& answer) {
  const std::optional<Assessment> assessment = assess(request, answer);
  return assessment ? assessment->score : -1;
}

std::vector<sao::Verdict> oracle_verdicts(const std::vector<sao::JudgeItem>& items) {
  std::vector<sao::Verdict> verdicts;
  for (const sao::JudgeItem& item : items) {
    const int first = oracle_score(item.prompt, item.first), second = oracle_score(item.prompt, item.second);
    verdicts.push_back(
        {.id = item.id, .prompt_id = item.prompt_id, .first_id = item.first_id, .second_id = item.second_id});
    sao::Verdict& verdict = verdicts.back();
    verdict.p_first = first > second ? 1.0 : first < second ? 0.0 : 0.5;
    verdict.outcome = first > second ? "first" : first < second ? "second" : "tie";
  }
  return verdicts;
}

std::vector<sao::Verdict> judge(sao::Generator& model, const std::vector<sao::JudgeItem>& items, Labels labels,
                                sao::Seed seed) {
  switch (labels) {
    case Labels::kSelf:
    case Labels::kRandom:
      return sao::judge_pairs(model, items, {.seed = seed}, judge_templates());
    case Labels::kSelfOneOrder:
      return sao::judge_pairs(model, items, {.both_orders = false, .seed = seed}, judge_templates());
    case Labels::kSelfText:
      return sao::judge_pairs(
          model, items,
          {.mode = "text", .both_orders = false, .sampling = {.temperature = 0.6, .max_new_tokens = 12}, .seed = seed},
          judge_templates());
    case Labels::kOracle:
      return oracle_verdicts(items);
  }
  return {};
}

struct Base {
  sao::CausalLM model;
  sao::ChatTokenizer text;
};

Base load(const std::filesystem::path& folder) {
  return {.model = sao::CausalLM::load(folder), .text = sao::ChatTokenizer::load(folder)};
}

std::string percent(const std::vector<double>& values) { return fmt::format("{:.1f}", 100.0 * sao::mean(values)); }

std::string percent_with_range(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return fmt::format("{:.1f} ({:.1f} to {:.1f})", 100.0 * sao::mean(values), 100.0 * *low, 100.0 * *high);
}

// All measurements of one variant, a value a seed.
struct Row {
  std::map<std::string, std::vector<double>> values;
  void add(const std::string& name, double value) { values[name].push_back(value); }
  std::vector<double>& operator[](const std::string& name) { return values[name]; }
};

void measure(const Base& base, const sao::CausalLM& policy, const std::vector<std::string>& requests,
             const Answers& before, const Answers& before_greedy, const Health& health_before, sao::Seed seed,
             Row* row) {
  sao::Engine engine(policy, base.text, {.max_batch = 256});
  const Answers after = answer_requests(engine, requests, 0.7, seed.fork("after"));
  const Comparison comparison = compare(before, after);
  row->add("win", comparison.win.win_rate);
  row->add("lc", comparison.length_controlled.win_rate);
  row->add("equal", comparison.equal_length.win_rate);
  row->add("equal_n", static_cast<double>(comparison.equal_length.n));
  row->add("greedy", compare(before_greedy, answer_requests(engine, requests, 0.0, seed)).win.win_rate);
  row->add("score", after.mean_score());
  row->add("words", after.mean_words());
  row->add("clean", after.clean_share());
  for (int f = 0; f < kFlawCount; ++f) {
    row->add(std::string(kFlaws[static_cast<std::size_t>(f)].name), after.share(Flaws{1} << f));
  }
  const Health health = check_health(engine, kHealthSeed);
  row->add("judge", health.judge_accuracy);
  row->add("request_loss", health.request_loss / health_before.request_loss - 1.0);
  row->add("clean_loss", health.clean_answer_loss / health_before.clean_answer_loss - 1.0);
}

std::string table_head() {
  return "| | pairs | labels right % | win % at T 0.7 (range over seeds) | length-controlled % | equal length % (n) | "
         "greedy win % | "
         "mean score | words | clean % | off topic | wrong | count | repeats | ignored | idle | broken | judge "
         "accuracy % | request loss "
         "change % | clean answer loss change % "
         "|\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
}

std::string table_row(const std::string& name, Row& row) {
  const auto share = [&](const char* key) { return fmt::format("{:.1f}", 100.0 * sao::mean(row[key])); };
  return fmt::format(
      "| {} | {:.0f} | {} | {} | {} | {} ({:.0f}) | {} | {:.2f} | {:.1f} | {} | {} | {} | {} | {} | {} | {} | {} | {} "
      "| {:+.1f} | {:+.1f} |\n",
      name, sao::mean(row["pairs"]), percent(row["labels"]), percent_with_range(row["win"]), percent(row["lc"]),
      percent(row["equal"]), sao::mean(row["equal_n"]), percent(row["greedy"]), sao::mean(row["score"]),
      sao::mean(row["words"]), share("clean"), share("off_topic"), share("wrong_fact"), share("wrong_count"),
      share("repetition"), share("ignored_wish"), share("idle_talk"), share("broken_off"), share("judge"),
      100.0 * sao::mean(row["request_loss"]), 100.0 * sao::mean(row["clean_loss"]));
}

std::vector<Variant> all_variants(const RoundSettings& settings) {
  const sao::SimPO simpo{.beta = settings.beta, .gamma_beta_ratio = settings.gamma_beta_ratio};
  return {{"SimPO, self-judged in both orders", Labels::kSelf, simpo},
          {"DPO, self-judged in both orders", Labels::kSelf, sao::DPO{.beta = settings.dpo_beta}},
          {"SimPO, self-judged in one order", Labels::kSelfOneOrder, simpo},
          {"SimPO, self-judged as the paper does (one order, sampled text)", Labels::kSelfText, simpo},
          {"SimPO, random verdicts on the same pairs", Labels::kRandom, simpo},
          {"SimPO, oracle verdicts (upper bound)", Labels::kOracle, simpo}};
}

}  // namespace

Material write_material(const sao::CausalLM& policy, const sao::ChatTokenizer& text, const RoundSettings& settings,
                        sao::Seed seed) {
  sao::Engine engine(policy, text, {.max_batch = settings.max_batch});
  const std::vector<sao::Persona> voices = personas(seed.fork("personas"), settings.prompts);
  Material material;
  material.prompts = sao::kept_prompts(sao::write_prompts(
      engine, voices,
      {.sampling = {.temperature = settings.prompt_temperature, .max_new_tokens = settings.max_new_tokens},
       .seed = seed.fork("prompts")},
      kPrompts));
  material.responses = sao::answer_prompts(
      engine, material.prompts,
      {.sampling = {.temperature = settings.answer_temperature, .max_new_tokens = settings.max_new_tokens},
       .seed = seed.fork("answers")});
  return material;
}

Outcome align(const sao::CausalLM& policy, const sao::ChatTokenizer& text, const Material& material,
              const Variant& variant, const RoundSettings& settings, sao::Seed seed) {
  Outcome outcome;
  {
    sao::Engine engine(policy, text, {.max_batch = settings.max_batch});
    const std::vector<sao::JudgeItem> items = sao::judge_items(material.prompts, material.responses);
    const std::vector<sao::Verdict> verdicts = judge(engine, items, variant.labels, seed.fork("judge"));
    outcome.pairs =
        sao::build_pairs(material.prompts, material.responses, verdicts, {.min_margin = settings.min_margin}).pairs;
  }
  if (variant.labels == Labels::kRandom) {  // the same pairs, so that nothing but the labels differs
    Rng coin(seed.fork("coin").value, 0, 0);
    for (sao::Preference& pair : outcome.pairs) {
      if (!coin.chance(0.5)) continue;
      std::swap(pair.chosen, pair.rejected);
      std::swap(pair.chosen_ids, pair.rejected_ids);
    }
  }
  double right = 0.0, counted = 0.0;
  for (const sao::Preference& pair : outcome.pairs) {
    const int chosen = oracle_score(pair.prompt.back().content, pair.chosen.back().content);
    const int rejected = oracle_score(pair.prompt.back().content, pair.rejected.back().content);
    if (chosen == rejected) continue;
    right += chosen > rejected ? 1.0 : 0.0;
    counted += 1.0;
  }
  outcome.label_accuracy = counted > 0.0 ? right / counted : 0.5;

  sao::Trainer trainer(
      policy, sao::tokenize_pairs(outcome.pairs, text),
      {.loss = variant.loss,
       .optimizer = {.learning_rate = variant.learning_rate > 0.0 ? variant.learning_rate : settings.learning_rate},
       .epochs = settings.epochs,
       .batch_size = settings.batch_size,
       .seed = seed.fork("train")});
  while (trainer.step()) outcome.final_loss = trainer.metrics().loss;
  return outcome;
}

std::string controls(const std::filesystem::path& model_folder, const RoundSettings& settings, std::int64_t seeds,
                     std::int64_t requests, const std::vector<std::string>& only, const sao::LogSink& log) {
  const Base base = load(model_folder);
  const std::vector<std::string> held_out = held_out_requests(kRequestsSeed, static_cast<std::size_t>(requests));
  std::map<std::string, Row> rows;
  std::vector<Variant> variants;
  for (const Variant& variant : all_variants(settings)) {
    const auto matches = [&](const std::string& part) { return variant.name.find(part) != std::string::npos; };
    if (only.empty() || std::any_of(only.begin(), only.end(), matches)) variants.push_back(variant);
  }
  Row start;
  for (std::int64_t s = 1; s <= seeds; ++s) {
    const sao::Seed seed{static_cast<std::uint64_t>(s)};
    sao::Engine engine(base.model, base.text, {.max_batch = 256});
    const Answers before = answer_requests(engine, held_out, 0.7, seed.fork("before"));
    const Answers before_greedy = answer_requests(engine, held_out, 0.0, seed);
    const Health health = check_health(engine, kHealthSeed);
    measure(base, base.model, held_out, before, before_greedy, health, seed, &start);
    start.add("pairs", 0.0);
    start.add("labels", 0.5);
    const Material material = write_material(base.model, base.text, settings, seed);
    for (const Variant& variant : variants) {
      const sao::CausalLM policy = base.model.clone_frozen();
      const Outcome outcome = align(policy, base.text, material, variant, settings, seed);
      Row& row = rows[variant.name];
      row.add("pairs", static_cast<double>(outcome.pairs.size()));
      row.add("labels", outcome.label_accuracy);
      measure(base, policy, held_out, before, before_greedy, health, seed, &row);
      if (log) {
        log(sao::LogLevel::kInfo,
            fmt::format("seed {}: {}: win {:.3f}, length-controlled {:.3f}, equal length {:.3f}", s, variant.name,
                        row["win"].back(), row["lc"].back(), row["equal"].back()));
      }
    }
  }
  std::string text = table_head() + table_row("the start against itself", start);
  for (const Variant& variant : variants) text += table_row(variant.name, rows[variant.name]);
  return text;
}

std::string rounds(const std::filesystem::path& model_folder, const RoundSettings& settings, std::int64_t count,
                   std::int64_t seeds, std::int64_t requests, const sao::LogSink& log) {
  const Base base = load(model_folder);
  const std::vector<std::string> held_out = held_out_requests(kRequestsSeed, static_cast<std::size_t>(requests));
  std::vector<Row> rows(static_cast<std::size_t>(count));
  const Variant variant = all_variants(settings)[0];
  for (std::int64_t s = 1; s <= seeds; ++s) {
    const sao::Seed seed{static_cast<std::uint64_t>(s)};
    sao::Engine engine(base.model, base.text, {.max_batch = 256});
    const Answers before = answer_requests(engine, held_out, 0.7, seed.fork("before"));
    const Answers before_greedy = answer_requests(engine, held_out, 0.0, seed);
    const Health health = check_health(engine, kHealthSeed);
    const sao::CausalLM policy = base.model.clone_frozen();
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const sao::Seed round_seed = seed.fork("round").fork(r);
      const Outcome outcome = align(policy, base.text, write_material(policy, base.text, settings, round_seed), variant,
                                    settings, round_seed);
      rows[r].add("pairs", static_cast<double>(outcome.pairs.size()));
      rows[r].add("labels", outcome.label_accuracy);
      measure(base, policy, held_out, before, before_greedy, health, seed, &rows[r]);
      if (log) log(sao::LogLevel::kInfo, fmt::format("seed {} round {}: win {:.3f}", s, r + 1, rows[r]["win"].back()));
    }
  }
  std::string text = table_head();
  for (std::size_t r = 0; r < rows.size(); ++r) text += table_row(fmt::format("round {}", r + 1), rows[r]);
  return text;
}

std::string health(const std::filesystem::path& model_folder, std::int64_t requests) {
  const Base base = load(model_folder);
  sao::Engine engine(base.model, base.text, {.max_batch = 256});
  const Health health = check_health(engine, kHealthSeed, static_cast<std::size_t>(requests));
  const std::vector<std::string> held_out = held_out_requests(kRequestsSeed, static_cast<std::size_t>(requests));
  const Answers free = answer_requests(engine, held_out, 0.7, sao::Seed{1});
  const Answers careful = answer_requests(engine, held_out, 0.7, sao::Seed{1}, std::string(careful_openings()[0]));
  std::string text = fmt::format(
      "judge accuracy {:.1f} %, request loss {:.3f}, clean answer loss {:.3f} nats a token\n\n"
      "| flaw | judge accuracy on pairs that differ in it alone % | in answers at T 0.7 % | after a careful opening % "
      "|\n|---|---|---|---|\n",
      100.0 * health.judge_accuracy, health.request_loss, health.clean_answer_loss);
  for (int f = 0; f < kFlawCount; ++f) {
    text += fmt::format("| {} | {:.1f} | {:.1f} | {:.1f} |\n", kFlaws[static_cast<std::size_t>(f)].name,
                        100.0 * health.judge_accuracy_by_flaw[static_cast<std::size_t>(f)],
                        100.0 * free.share(Flaws{1} << f), 100.0 * careful.share(Flaws{1} << f));
  }
  return text +
         fmt::format("| none | | {:.1f} | {:.1f} |\n", 100.0 * free.clean_share(), 100.0 * careful.clean_share());
}

std::string diversity(const std::filesystem::path& model_folder, std::int64_t count, double temperature,
                      std::int64_t seeds) {
  const Base base = load(model_folder);
  sao::Engine engine(base.model, base.text, {.max_batch = 256});
  std::string text =
      "| prompts | exact duplicates % | near duplicates % | repeated 4-grams % | distinct-2 | self-BLEU "
      "|\n|---|---|---|---|---|---|\n";
  for (const bool guided : {true, false}) {
    std::vector<double> exact, near, repeated, distinct, bleu;
    for (std::int64_t s = 1; s <= seeds; ++s) {
      const sao::Seed seed{static_cast<std::uint64_t>(s)};
      const std::vector<sao::Persona> voices =
          guided ? personas(seed.fork("personas"), count) : std::vector<sao::Persona>{};
      std::vector<std::string> texts;
      for (const sao::Prompt& prompt : sao::sample_prompts(
               engine, voices, 0, static_cast<std::uint64_t>(count),
               {.sampling = {.temperature = temperature, .max_new_tokens = 96}, .seed = seed.fork("prompts")},
               kPrompts)) {
        texts.push_back(prompt.text);
      }
      const sao::Diversity d = sao::measure_diversity(texts, {.seed = seed});
      exact.push_back(d.exact_duplicate_share);
      near.push_back(d.near_duplicate_share);
      repeated.push_back(d.repeated_ngram_share);
      distinct.push_back(d.distinct[1]);
      bleu.push_back(d.self_bleu);
    }
    text += fmt::format("| {} | {} | {} | {} | {:.3f} | {:.3f} |\n", guided ? "by personas" : "unguided",
                        percent(exact), percent(near), percent(repeated), sao::mean(distinct), sao::mean(bleu));
  }
  return text;
}

}  // namespace microworld
