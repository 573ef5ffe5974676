// SPDX-License-Identifier: Apache-2.0
#include "loop/manifest.h"

#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <vector>

#include "sao/base/version.h"
#include "sao/io/files.h"

namespace sao::detail {
namespace fs = std::filesystem;
namespace {

constexpr std::array<std::string_view, 6> kTokenizerFiles = {"tokenizer.model",        "tokenizer.json",
                                                             "tokenizer_config.json",  "special_tokens_map.json",
                                                             "generation_config.json", "chat_template.jinja"};

OrderedJson fingerprints_of(const fs::path& folder, const std::vector<std::string>& names) {
  OrderedJson object = OrderedJson::object();
  for (const std::string& name : names) {
    if (fs::exists(folder / name)) object[name] = fingerprint_file(folder / name);
  }
  return object;
}

OrderedJson tokenizer_of(const fs::path& folder) {
  std::vector<std::string> names(kTokenizerFiles.begin(), kTokenizerFiles.end());
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder / "additional_chat_templates", error)) {
    names.push_back(fs::path("additional_chat_templates") / entry.path().filename());
  }
  std::sort(names.begin() + kTokenizerFiles.size(), names.end());
  return fingerprints_of(folder, names);
}

OrderedJson weights_of(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw InputError(fmt::format("{}: no such folder, expected a Hugging Face model folder", folder.string()));
  }
  std::vector<std::string> names = {"config.json", "model.safetensors.index.json"};
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return fingerprints_of(folder, names);
}

}  // namespace

Seed round_seed(Seed run, std::int64_t round, const char* stage) {
  return run.fork("round").fork(static_cast<std::uint64_t>(round)).fork(stage);
}
Seed evaluation_seed(Seed run) { return run.fork("evaluation"); }
Seed persona_seed(Seed run) { return run.fork("personas"); }

OrderedJson settings_to_json(const RunSettings& settings) {
  OrderedJson object = OrderedJson::object();
  visit_settings(
      [&](const std::string& path, const auto& field, const char*) {
        // How the engine works changes nothing, unless it is what it computes with.
        if ((path.starts_with("engine.") && path != "engine.int8_weights") || path.ends_with("items_per_call")) return;
        OrderedJson* place = &object;
        std::size_t begin = 0;
        for (std::size_t dot; (dot = path.find('.', begin)) != std::string::npos; begin = dot + 1) {
          place = &(*place)[path.substr(begin, dot - begin)];
        }
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, Seed>) {
          (*place)[path.substr(begin)] = field.value;
        } else {
          (*place)[path.substr(begin)] = field;
        }
      },
      settings);
  return object;
}

std::string manifest_json(const RunSettings& settings) {
  OrderedJson seeds = {{"run", settings.seed.value},
                       {"personas", persona_seed(settings.seed).value},
                       {"evaluation", evaluation_seed(settings.seed).value}};
  for (std::int64_t round = 1; round <= settings.rounds; ++round) {
    OrderedJson stages = OrderedJson::object();
    for (const char* stage : kRoundStages) stages[stage] = round_seed(settings.seed, round, stage).value;
    seeds[fmt::format("round-{}", round)] = stages;
  }

  const fs::path model = settings.model;
  OrderedJson inputs = OrderedJson::object();
  inputs["model"] = weights_of(model);
  inputs["tokenizer"] = tokenizer_of(model);
  const fs::path templates = settings.templates.empty() ? model / "sao_templates.json" : fs::path(settings.templates);
  inputs["templates"] = settings.templates.empty() && !fs::exists(templates) ? OrderedJson("default")
                                                                             : OrderedJson(fingerprint_file(templates));
  if (!settings.personas.empty()) inputs["personas"] = fingerprint_file(settings.personas);
  if (!settings.judge_model.empty()) inputs["judge_model"] = weights_of(settings.judge_model);
  if (!settings.eval.prompts.empty()) inputs["eval_prompts"] = fingerprint_file(settings.eval.prompts);
  if (!settings.eval.judge.empty()) inputs["eval_judge"] = weights_of(settings.eval.judge);

  return dump_json_pretty({{"format", 1},
                           {"versions", {{"sao", SAO_VERSION}, {"torch", TORCH_VERSION}}},
                           {"settings", settings_to_json(settings)},
                           {"seeds", seeds},
                           {"fingerprints", inputs}});
}

}  // namespace sao::detail
