// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/eval/exact_match.h>
#include <sao/eval/multiple_choice.h>
#include <sao/eval/perplexity.h>
#include <sao/eval/task.h>
#include <sao/generate/engine.h>

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

void add_share(nlohmann::ordered_json& result, const std::string& name, const std::string& error_name,
               const std::optional<Share>& share) {
  if (!share) return;
  result[name] = share->value;
  result[error_name] = share->standard_error;
}

struct Eval {
  explicit Eval(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add("task", task, "rows: choices, answers to write, or text to predict");
    arguments.add("fewshot", fewshot, "rows for the examples; nothing is the other rows of --task");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
    arguments.add("log-samples", samples, "file for a line about every row");
    arguments.add_fields(rows, with_dashes);
    arguments.add("until", until, "text that ends an answer, or a JSON list of such; plain: --fewshot-delimiter");
    arguments.add("max-length", rolling.max_length, "text: tokens that a window reads; 0 is the model's context");
    arguments.add("context-length", rolling.context_length, "text: tokens in front of what a later window predicts");
    arguments.add_fields(sampling, with_dashes);
    arguments.add("seed", seed, "seed of sampled answers");
    arguments.add_fields(engine, with_dashes);
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    arguments.require("task");
    check_model_options(options);
    check_options(rows);
    check_options(sampling);
    check_options(engine);
    Output out(output);
    std::optional<Output> log;
    if (!samples.empty()) log.emplace(samples);
    Engine generator(load_model(options, purpose_of(engine)), ChatTokenizer::load(model_folder(options.model)), engine);
    const Task questions = read_task(task, generator.text(), rows, fewshot);
    switch (questions.kind) {
      case TaskKind::kMultipleChoice:
        out.write(choose(generator, questions, log));
        break;
      case TaskKind::kGeneration:
        out.write(answer(generator, questions, log));
        break;
      case TaskKind::kText:
        out.write(predict(generator, questions, log));
        break;
    }
    if (log) log->finish();
    out.finish();
  }

  static nlohmann::ordered_json choose(Engine& generator, const Task& questions, std::optional<Output>& log) {
    const MultipleChoice found = measure_multiple_choice(generator, questions.items);
    nlohmann::ordered_json result;
    add_share(result, "accuracy", "standard_error", found.accuracy);
    add_share(result, "accuracy_norm", "standard_error_norm", found.accuracy_norm);
    add_share(result, "accuracy_bytes", "standard_error_bytes", found.accuracy_bytes);
    result["n"] = found.n;
    result["truncated"] = found.truncated;
    for (std::size_t i = 0; log && i < questions.items.size(); ++i) {
      const TaskItem& item = questions.items[i];
      log->write({{"contexts", item.contexts},
                  {"continuations", item.continuations},
                  {"log_likelihoods", found.log_likelihoods[i]},
                  {"right", item.right}});
    }
    return result;
  }

  nlohmann::ordered_json answer(Engine& generator, const Task& questions, std::optional<Output>& log) const {
    const WrittenAnswers found =
        measure_written_answers(generator, questions.items, sampling, stops(questions.chat), seed, terminal_progress());
    nlohmann::ordered_json result;
    add_share(result, "accuracy", "standard_error", found.accuracy);
    add_share(result, "strict_match", "standard_error_strict", found.strict_match);
    add_share(result, "flexible_match", "standard_error_flexible", found.flexible_match);
    result["truncated"] = found.truncated;
    result["n"] = found.n;
    for (std::size_t i = 0; log && i < questions.items.size(); ++i) {
      const TaskItem& item = questions.items[i];
      log->write({{"context", item.contexts[0]}, {"response", found.responses[i]}, {"answers", item.answers}});
    }
    return result;
  }

  nlohmann::ordered_json predict(Engine& generator, const Task& questions, std::optional<Output>& log) const {
    const TextLikelihood found = measure_text(generator, questions.items, rolling);
    for (std::size_t i = 0; log && i < questions.items.size(); ++i) {
      log->write({{"text", questions.items[i].text}, {"log_likelihood", found.log_likelihoods[i]}});
    }
    return {{"word_perplexity", found.word_perplexity},
            {"byte_perplexity", found.byte_perplexity},
            {"bits_per_byte", found.bits_per_byte},
            {"perplexity", found.tokens.perplexity},
            {"nll", found.tokens.nll},
            {"standard_error", found.tokens.standard_error},
            {"tokens", found.tokens.tokens},
            {"words", found.words},
            {"bytes", found.bytes},
            {"n", questions.items.size()}};
  }

  /// In the chat format the end of the turn ends the answer.
  std::vector<std::string> stops(bool chat) const {
    if (!arguments.given("until")) return chat ? std::vector<std::string>() : std::vector{rows.fewshot_delimiter};
    if (!until.starts_with('[')) return {until};
    const auto list = nlohmann::json::parse(until, nullptr, /*allow_exceptions=*/false);
    const bool good =
        list.is_array() && std::all_of(list.begin(), list.end(), [](const auto& stop) { return stop.is_string(); });
    if (!good) throw UsageError(fmt::format("--until is {}, expected a text or a JSON list of texts", until));
    return list.get<std::vector<std::string>>();
  }

  Arguments arguments;
  ModelOptions options;
  TaskOptions rows;
  SamplingOptions sampling = {.temperature = 0.0, .max_new_tokens = 256};
  RollingOptions rolling;
  EngineOptions engine;
  std::string task, fewshot, output, samples, until;
  Seed seed = {42};
};

}  // namespace

Run eval_command(CLI::App& app) {
  return [command = std::make_shared<Eval>(app)] { command->run(); };
}

}  // namespace sao::cli
