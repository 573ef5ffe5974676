// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/base/version.h>
#include <sao/data/checks.h>
#include <sao/data/records.h>
#include <sao/generate/engine.h>
#include <sao/io/files.h>
#include <sao/io/jsonl.h>
#include <sao/loop/run_folder.h>
#include <sao/loop/training.h>
#include <sao/train/pairs.h>
#include <sao/train/trainer.h>

#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

namespace fs = std::filesystem;

/// "optimizer.learning_rate" -> "learning-rate,lr"
std::string train_flag(const std::string& path) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kNames = {
      {{"loss.name", "loss"},
       {"loss.weights", "loss-weights"},
       {"loss.f_divergence.type", "f-divergence"},
       {"loss.f_divergence.alpha", "f-divergence-alpha"},
       {"optimizer.learning_rate", "learning-rate,lr"},
       {"schedule.kind", "schedule"},
       {"reference.mode", "reference-mode"},
       {"reference.file", "reference-file"},
       {"reference.alpha", "reference-alpha"},
       {"reference.sync_steps", "reference-sync-steps"},
       {"checkpoint.every_steps", "checkpoint-every"},
       {"checkpoint.keep", "checkpoint-keep"}}};
  for (const auto& [field, flag] : kNames) {
    if (path == field) return std::string(flag);
  }
  for (const std::string_view group : {"loss.", "optimizer.", "schedule."}) {
    if (path.starts_with(group)) return with_dashes(path.substr(group.size()));
  }
  return with_dashes(path);
}

/// Adapters as a group of options; no rank is no adapters.
struct Adapting {
  LoraOptions lora = {.r = 0};
};
template <class Visitor, OptionsOf<Adapting> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("lora", options.lora, "LoRA");
}

/// "lora.lora_alpha" -> "lora.alpha"
std::string lora_flag(const std::string& path) {
  constexpr std::string_view kTwice = "lora.lora_";
  return with_dashes(path.starts_with(kTwice) ? "lora." + path.substr(kTwice.size()) : path);
}

struct Train {
  explicit Train(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add(
        "data", data,
        "preference rows in TRL's form, of pairs or, for kto, completions with a label; - is the standard input", "d");
    arguments.add("output", output, "folder for the trained model, metrics.jsonl and checkpoints", "o");
    arguments.add("resume", resume, "continue the training in the output folder");
    arguments.add("reference", reference, "folder of the reference model; nothing is the model as it starts");
    arguments.add("save-dtype", save_dtype, "dtype of the saved weights; nothing is --dtype");
    arguments.add("save-merged", save_merged, "with adapters: save the model with them merged too");
    arguments.add_fields(adapting, lora_flag);
    arguments.add_fields(training, train_flag);
  }

  void run() {
    arguments.finish();
    for (const char* name : {"model", "data", "output", "loss"}) arguments.require(name);
    check_model_options(options);
    check_training_options();
    RunFolder::check(output, {.resume = resume});
    const LogSink log = message_log();
    for (const std::string& sentence : unusual_settings(training.loss)) log(LogLevel::kWarning, sentence);

    if (is_unpaired(training.loss)) {
      train(read_unpaired(), [](const auto& rows, const ChatTokenizer& text, const std::string& policy) {
        return tokenize_completions(rows, text, policy);
      });
    } else {
      train(read_jsonl<Preference>(data), [](const auto& rows, const ChatTokenizer& text, const std::string& policy) {
        return tokenize_pairs(rows, text, policy);
      });
    }
  }

  /// Pairs among the rows give two completions each, as TRL's KTOTrainer unpairs them.
  std::vector<UnpairedPreference> read_unpaired() const {
    std::vector<UnpairedPreference> rows;
    for_each_line(data, [&](std::string_view line) {
      const Row row(line);
      if (row.has("chosen") || row.has("chosen_ids")) {
        Preference pair;
        from_json_line(line, pair);
        for (UnpairedPreference& one : unpaired(pair)) rows.push_back(std::move(one));
      } else {
        from_json_line(line, rows.emplace_back());
      }
    });
    return rows;
  }

  template <class Rows, class Tokenize>
  void train(const Rows& rows, Tokenize&& tokenize) {
    const LogSink log = message_log();
    if (rows.empty()) throw InputError(fmt::format("{}: no rows, expected preferences", data));
    if constexpr (std::same_as<Rows, std::vector<Preference>>) warn_of_repeats(rows, log);
    CausalLM policy = load_model(options);
    if (adapting.lora.r > 0) policy = policy.with_lora(adapting.lora, training.seed.fork("lora"));
    const ChatTokenizer text = ChatTokenizer::load(model_folder(options.model));
    check_tokenizer(text.tokenizer(), policy.config());
    auto tokens = tokenize(rows, text, training.token_policy);
    const bool uses_model =
        needs_reference(training.loss) && (training.reference.mode == "frozen" || training.reference.mode == "moving");
    std::optional<CausalLM> reference_model;
    if (!reference.empty() && uses_model) {
      std::error_code ignored;
      const bool is_base = fs::equivalent(model_folder(reference), model_folder(options.model), ignored);
      reference_model = is_base && policy.lora() != nullptr ? policy.base() : load_model(options, reference);
    }
    if (!reference.empty() && !uses_model) {
      log(LogLevel::kWarning, fmt::format("the loss {} with reference mode {} needs no model: --reference is not used",
                                          loss_name(training.loss), training.reference.mode));
    }

    const fs::path checkpoints = fs::path(output) / "checkpoints";
    const fs::path metrics = fs::path(output) / "metrics.jsonl";
    {
      Trainer trainer(policy, std::move(tokens), training, std::move(reference_model));
      RunFolder folder(output, {.resume = resume});  // made last: nothing stays of what cannot be trained
      folder.fix_manifest(manifest());
      const ProgressSink progress = terminal_progress();
      trainer.set_progress(progress);
      for (const auto& [reason, count] : trainer.dropped()) {
        log(LogLevel::kWarning, fmt::format("{} of {} rows are not trained on: {}", count, rows.size(), reason));
      }
      warn_of_imbalance(trainer, log);
      for (const auto& [what, count] : trainer.cut()) {
        log(LogLevel::kWarning, fmt::format("{} of {} rows lost tokens of the {}", count, rows.size(), what));
      }
      train_to_end(
          trainer, checkpoints, metrics, training.checkpoint,
          [&](const Trainer& stepped) {
            if (!progress) return;
            progress("steps", static_cast<std::size_t>(stepped.steps_done()),
                     static_cast<std::size_t>(stepped.total_steps()));
          },
          metrics_line);
    }
    const fs::path tokenizer = model_folder(options.model);
    const DType dtype = check_save_dtype(save_dtype, options);
    if (policy.lora() != nullptr) {
      policy.lora()->save(fs::path(output) / "adapter", options.model);
      if (!save_merged) return;
      policy = policy.merged(dtype);
    }
    policy.save(fs::path(output) / "model", tokenizer, dtype);
  }

  /// What the trainer drops it names itself; these rows are trained on like the others.
  static void warn_of_repeats(const std::vector<Preference>& rows, const LogSink& log) {
    const PreferenceCheck check = check_preferences(rows);
    for (const auto& [reason, count] : check.found) {
      if (reason != "duplicate" && reason != "contradiction") continue;
      log(LogLevel::kWarning,
          fmt::format("{} of {} pairs are trained on although they are: {}", count, check.rows, reason));
    }
  }

  /// KTO's paper, eq. 8: what the desirable rows weigh together over what the undesirable ones do.
  void warn_of_imbalance(const Trainer& trainer, const LogSink& log) const {
    const KTO* kto = std::get_if<KTO>(&training.loss);
    if (kto == nullptr) return;
    double desirable = 0.0, undesirable = 0.0;
    for (const TokenCompletion& row : trainer.completions()) {
      (row.label ? desirable : undesirable) +=
          row.weight * (row.label ? kto->desirable_weight : kto->undesirable_weight);
    }
    if (desirable >= undesirable && 3.0 * desirable <= 4.0 * undesirable) return;
    log(LogLevel::kWarning,
        fmt::format(
            "desirable rows weigh {:.4g} together, undesirable ones {:.4g}, where 1 to 4/3 of that is advised: see "
            "--desirable-weight and --undesirable-weight",
            desirable, undesirable));
  }

  void check_training_options() {
    check_options(training);
    check_save_dtype(save_dtype, options);
    const bool adapts = adapting.lora.r != 0 || !options.adapter.empty();
    if (save_merged && !adapts) throw UsageError("--save-merged without adapters, expected --lora.r or --adapter");
    if (adapting.lora.r != 0) {
      check_options(adapting.lora);
      if (!options.adapter.empty()) {
        throw UsageError("--lora.r makes new adapters and --adapter continues others, expected one of them");
      }
      return;
    }
    visit_leaves(
        [&](const std::string& path, const auto&, const char*) {
          if (path != "lora.r" && arguments.given(lora_flag(path))) {
            throw UsageError(fmt::format("--{} without --lora.r, expected the rank of new adapters", lora_flag(path)));
          }
        },
        adapting);
  }

  static std::string metrics_line(const Trainer& trainer) {
    auto row = nlohmann::ordered_json::parse(to_json_line(trainer.metrics()));
    row["tokens/s"] = trainer.tokens_per_second();
    return row.dump();
  }

  /// What the training was made with.
  std::string manifest() {
    nlohmann::ordered_json settings = nlohmann::ordered_json::object();
    const auto add = [&](const std::string& path, const auto& field, const char*) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, Seed>) {
        settings[path] = field.value;
      } else {
        settings[path] = field;
      }
    };
    visit_leaves(add, training);
    if (adapting.lora.r > 0) visit_leaves(add, adapting);
    nlohmann::ordered_json fingerprints = nlohmann::ordered_json::object();
    if (data != "-") fingerprints["data"] = fingerprint_file(data);
    const nlohmann::ordered_json all = {{"format", 1},
                                        {"versions", {{"sao", SAO_VERSION}}},
                                        {"model", options.model},
                                        {"adapter", options.adapter},
                                        {"reference", reference},
                                        {"data", data},
                                        {"device", options.device},
                                        {"dtype", options.dtype},
                                        {"settings", settings},
                                        {"fingerprints", fingerprints}};
    return all.dump(2) + "\n";
  }

  Arguments arguments;
  ModelOptions options;
  TrainerOptions training;
  Adapting adapting;
  std::string data, output, reference, save_dtype;
  bool resume = false, save_merged = false;
};

}  // namespace

Run train_command(CLI::App& app) {
  return [command = std::make_shared<Train>(app)] { command->run(); };
}

}  // namespace sao::cli
