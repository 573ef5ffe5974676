// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/eval/alpaca_outputs.h>
#include <sao/generate/engine.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

struct Generate {
  explicit Generate(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add_input(input, "lines with \"prompt\" or \"instruction\" (a string or messages), or \"prompt_ids\"");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
    arguments.add("format", format, "jsonl, or alpaca_eval: AlpacaEval's model_outputs.json");
    arguments.add("generator", generator_name, "name of the model in model_outputs.json; nothing is its folder's");
    arguments.add_fields(sampling, with_dashes);
    arguments.add("n", samples, "responses to each prompt", "num-samples");
    arguments.add("seed", seed, "seed of the samples");
    arguments.add_fields(engine, with_dashes);
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    check_model_options(options);
    if (samples < 1) throw UsageError(fmt::format("--n is {}, expected at least 1", samples));
    if (format != "jsonl" && format != "alpaca_eval") {
      throw UsageError(fmt::format("--format is {}, expected jsonl or alpaca_eval", format));
    }
    if (format == "alpaca_eval" && samples != 1)
      throw UsageError("--format alpaca_eval has one response a prompt: --n 1");
    check_options(sampling);
    check_options(engine);
    Output out(output);
    const CausalLM model = load_model(options, purpose_of(engine));
    Engine generator(model, ChatTokenizer::load(model_folder(options.model)), engine);
    std::vector<GenerationRequest> requests;
    std::vector<AlpacaOutput> answers;
    for_each_row(input, [&](const Row& row) {
      requests.push_back(request(generator, model.config().vocab_size, row, requests.size()));
      if (format == "alpaca_eval") answers.push_back(answer(row));
    });

    // Completions come in any order; lines go out in the order of the input, each as soon as it can.
    std::vector<std::vector<Completion>> finished(requests.size(),
                                                  std::vector<Completion>(static_cast<std::size_t>(samples)));
    std::vector<std::int64_t> missing(requests.size(), samples);
    std::size_t next = 0;
    const ProgressSink progress = output.empty() && isatty_stdout() ? ProgressSink() : terminal_progress();
    generator.generate(requests, sampling, [&](std::size_t index, std::int64_t sample, Completion completion) {
      finished[index][static_cast<std::size_t>(sample)] = std::move(completion);
      --missing[index];
      for (; next < requests.size() && missing[next] == 0; ++next) {
        if (format == "alpaca_eval") {
          answers[next].output = generator.text().response_text(finished[next][0].ids);
        } else {
          out.write(line(generator.text(), finished[next]));
        }
        finished[next].clear();
        if (progress) progress("responses", next + 1, requests.size());
      }
    });
    if (format == "alpaca_eval") out.write_text(alpaca_outputs_json(answers));
    out.finish();
  }

  /// The instruction of a row whose answer is not there yet.
  AlpacaOutput answer(const Row& row) const {
    const std::string name = std::filesystem::path(options.model).lexically_normal().filename().string();
    return {.instruction = row.text("instruction"),
            .generator = generator_name.empty() ? name : generator_name,
            .dataset = row.has("dataset") ? row.text("dataset") : ""};
  }

  GenerationRequest request(const Engine& generator, std::int64_t vocab_size, const Row& row, std::size_t index) const {
    GenerationRequest request = {.seed = seed.fork(index), .samples = samples};
    if (row.has("prompt_ids")) {
      request.prompt_ids = row.ids("prompt_ids");
      check_vocabulary("prompt_ids", request.prompt_ids, vocab_size);
    } else {
      const char* name = row.has("prompt") || !row.has("instruction") ? "prompt" : "instruction";
      request.prompt_ids = encode_conversation(generator.text(), row.conversation(name), row.template_variables());
    }
    if (request.prompt_ids.empty()) throw InputError("field \"prompt_ids\" is empty, expected at least one token");
    if (static_cast<std::int64_t>(request.prompt_ids.size()) >= generator.max_tokens()) {
      throw InputError(fmt::format("the prompt has {} tokens, expected fewer than {}, the model's context",
                                   request.prompt_ids.size(), generator.max_tokens()));
    }
    return request;
  }

  static nlohmann::ordered_json line(const ChatTokenizer& text, const std::vector<Completion>& completions) {
    nlohmann::ordered_json responses = nlohmann::ordered_json::array();
    for (const Completion& completion : completions) {
      nlohmann::ordered_json response = nlohmann::ordered_json::object();
      response["ids"] = completion.ids;
      response["text"] = text.response_text(completion.ids);
      response["finish_reason"] = to_string(completion.finish_reason);
      responses.push_back(std::move(response));
    }
    nlohmann::ordered_json row = nlohmann::ordered_json::object();
    row["responses"] = std::move(responses);
    return row;
  }

  static bool isatty_stdout() { return ::isatty(STDOUT_FILENO) != 0; }

  Arguments arguments;
  ModelOptions options;
  SamplingOptions sampling;
  EngineOptions engine;
  std::string input, output, generator_name, format = "jsonl";
  std::int64_t samples = 1;
  Seed seed = {42};
};

}  // namespace

Run generate_command(CLI::App& app) {
  return [command = std::make_shared<Generate>(app)] { command->run(); };
}

}  // namespace sao::cli
