// SPDX-License-Identifier: Apache-2.0
// Rounds of Self-Alignment Optimization on the bundled model in memory, with the parts exchanged for controls: whose
// verdicts, which order, which loss. The oracle's verdicts are one of the controls; the pipeline itself never sees
// them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "evaluation.h"
#include "sao/base/log.h"
#include "sao/data/records.h"
#include "sao/loss/preference.h"
#include "sao/model/causal_lm.h"
#include "sao/text/chat.h"

namespace microworld {

enum class Labels { kSelf, kSelfOneOrder, kSelfText, kRandom, kOracle };

struct Variant {
  std::string name;
  Labels labels = Labels::kSelf;
  sao::PreferenceLoss loss;
  double learning_rate = 0.0;  // 0: the round's own
};

struct RoundSettings {
  std::int64_t prompts = 4000;
  double prompt_temperature = 1.0;
  double answer_temperature = 1.0;
  std::int64_t max_new_tokens = 96;
  double beta = 10.0;  // SimPO
  double gamma_beta_ratio = 0.3;
  double dpo_beta = 0.1;
  double learning_rate = 2e-4;
  std::int64_t batch_size = 32;
  std::int64_t epochs = 1;
  double min_margin = 0.2;
  std::int64_t max_batch = 256;
};

template <class Visitor, sao::OptionsOf<RoundSettings> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("prompts", options.prompts, "persona prompts a round");
  visit("prompt_temperature", options.prompt_temperature, "of the prompts");
  visit("answer_temperature", options.answer_temperature, "of the two answers");
  visit("max_new_tokens", options.max_new_tokens, "longest prompt or answer");
  visit("beta", options.beta, "SimPO's beta");
  visit("gamma_beta_ratio", options.gamma_beta_ratio, "SimPO's gamma / beta");
  visit("dpo_beta", options.dpo_beta, "DPO's beta");
  visit("learning_rate", options.learning_rate, "peak learning rate");
  visit("batch_size", options.batch_size, "pairs an optimizer step");
  visit("epochs", options.epochs, "passes over the pairs");
  visit("min_margin", options.min_margin, "smallest |p - 1/2| of a pair that is kept");
  visit("max_batch", options.max_batch, "sequences that decode at one time");
}

/// What the model wrote in one round, before any verdict.
struct Material {
  std::vector<sao::Prompt> prompts;
  std::vector<sao::Response> responses;
};
Material write_material(const sao::CausalLM& policy, const sao::ChatTokenizer& text, const RoundSettings& settings,
                        sao::Seed seed);

struct Outcome {
  std::vector<sao::Preference> pairs;
  double label_accuracy = 0.5;  // of the pairs whose two answers the oracle tells apart
  double final_loss = 0.0;
};

/// Labels the material as the variant says and trains `policy` in place.
Outcome align(const sao::CausalLM& policy, const sao::ChatTokenizer& text, const Material& material,
              const Variant& variant, const RoundSettings& settings, sao::Seed seed);

/// The table of controls over `seeds` seeds and `requests` held-out requests, as Markdown.
std::string controls(const std::filesystem::path& model_folder, const RoundSettings& settings, std::int64_t seeds,
                     std::int64_t requests, const std::vector<std::string>& only, const sao::LogSink& log);

/// Several rounds in a row, each from the last one's model; as Markdown.
std::string rounds(const std::filesystem::path& model_folder, const RoundSettings& settings, std::int64_t count,
                   std::int64_t seeds, std::int64_t requests, const sao::LogSink& log);

/// What a model knows and sees: judge accuracy by flaw, and the flaws of its answers as it gives them and after a
/// careful opening that is put in its mouth (which breaks a wish for another first word); as Markdown.
std::string health(const std::filesystem::path& model_folder, std::int64_t requests);

/// Persona prompts against unguided prompts, same count and temperature; as Markdown.
std::string diversity(const std::filesystem::path& model_folder, std::int64_t count, double temperature,
                      std::int64_t seeds);

}  // namespace microworld
