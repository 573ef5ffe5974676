// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/eval/alpaca_outputs.h>
#include <sao/generate/engine.h>
#include <sao/judge/judge.h>

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

/// "sampling.top_p" -> "top-p"
std::string judge_flag(const std::string& path) {
  constexpr std::string_view kSampling = "sampling.";
  return with_dashes(path.starts_with(kSampling) ? path.substr(kSampling.size()) : path);
}

struct Judge {
  explicit Judge(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add_input(input, "lines with \"prompt\" and \"responses\": two strings");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
    arguments.add("templates", templates, "templates file; nothing is the model's own, else the defaults");
    arguments.add("model-outputs", model_outputs, "AlpacaEval's answers of a model: annotations.json is written");
    arguments.add("reference-outputs", reference_outputs, "AlpacaEval's answers of the baseline");
    arguments.add("annotator", annotator, "name of the judge in annotations.json; nothing is its folder's");
    arguments.add_fields(judging, judge_flag);
    arguments.add_fields(engine, with_dashes);
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    check_model_options(options);
    check_options(judging);
    check_options(engine);
    if (model_outputs.empty() != reference_outputs.empty()) {
      throw UsageError("--model-outputs and --reference-outputs belong together: one answers what the other does");
    }
    Output out(output);
    const JudgeTemplates words =
        templates.empty() ? find_judge_templates(model_folder(options.model)) : load_judge_templates(templates);
    Engine generator(load_model(options, purpose_of(engine)), ChatTokenizer::load(model_folder(options.model)), engine);
    if (!model_outputs.empty()) {
      annotate(generator, words, out);
      return out.finish();
    }
    std::vector<JudgeItem> items;
    for_each_row(input, [&](const Row& row) { items.push_back(item(row, items.size())); });
    const ProgressSink progress = terminal_progress();
    std::size_t done = 0;
    judge_pairs(generator, items, judging, words, [&](const Verdict& verdict) {
      out.write(line(verdict, items[done]));
      if (progress)
        progress("verdicts", ++done, items.size());
      else
        ++done;
    });
    out.finish();
  }

  void annotate(Generator& generator, const JudgeTemplates& words, Output& out) const {
    const std::vector<AlpacaPair> pairs =
        pair_alpaca_outputs(read_alpaca_outputs(model_outputs), read_alpaca_outputs(reference_outputs));
    const std::string name =
        annotator.empty() ? std::filesystem::path(options.model).lexically_normal().filename().string() : annotator;
    out.write_text(alpaca_annotations_json(pairs, judge_pairs(generator, judge_items(pairs), judging, words), name));
  }

  static JudgeItem item(const Row& row, std::size_t index) {
    const std::vector<std::string> responses = row.texts("responses");
    if (responses.size() != 2) {
      throw InputError(fmt::format("field \"responses\" is a list of {}, expected two strings", responses.size()));
    }
    const std::string prompt = row.text("prompt");
    if (is_blank(prompt)) throw InputError("field \"prompt\" is blank, expected text");
    return {.id = std::to_string(index), .prompt = prompt, .first = responses[0], .second = responses[1]};
  }

  /// x12 and x21 are the probabilities that the response shown first is better: p_first = (x12 + 1 - x21) / 2, null
  /// where none was read. A verdict without a probability (an answer against an empty one, two that are the same, ...)
  /// has a "reason".
  static nlohmann::ordered_json line(const Verdict& verdict, const JudgeItem& item) {
    double p_first = verdict.p_first;
    nlohmann::ordered_json orders = {nullptr, nullptr};
    if (verdict.p_as_first) orders[0] = *verdict.p_as_first;
    if (verdict.p_as_second) orders[1] = 1.0 - *verdict.p_as_second;
    const std::string& outcome = verdict.outcome;
    if (has_probability(verdict)) return {{"p_first", p_first}, {"orders", orders}, {"verdict", outcome}};
    if (outcome == "empty" && is_blank(item.first) != is_blank(item.second)) p_first = is_blank(item.first) ? 0.0 : 1.0;
    const char* decision = p_first > 0.5 ? "first" : p_first < 0.5 ? "second" : "tie";
    return {{"p_first", p_first}, {"orders", orders}, {"verdict", decision}, {"reason", outcome}};
  }

  Arguments arguments;
  ModelOptions options;
  JudgeOptions judging;
  EngineOptions engine;
  std::string input, output, templates, model_outputs, reference_outputs, annotator;
};

}  // namespace

Run judge_command(CLI::App& app) {
  return [command = std::make_shared<Judge>(app)] { command->run(); };
}

}  // namespace sao::cli
