// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/generate/engine.h>

#include <memory>
#include <numeric>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

struct Score {
  explicit Score(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add_input(input, "lines with \"prompt\" and \"response\", or \"prompt_ids\" and \"response_ids\"");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
    arguments.add_fields(engine, with_dashes);
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    check_model_options(options);
    check_options(engine);
    Output out(output);
    const CausalLM model = load_model(options, purpose_of(engine));
    Engine generator(model, ChatTokenizer::load(model_folder(options.model)), engine);
    std::vector<ScoreRequest> requests;
    for_each_row(input,
                 [&](const Row& row) { requests.push_back(request(generator, model.config().vocab_size, row)); });
    const std::vector<std::vector<double>> all = generator.score(requests);
    for (const std::vector<double>& logps : all) {
      out.write(
          {{"logps", logps}, {"sum", std::accumulate(logps.begin(), logps.end(), 0.0)}, {"tokens", logps.size()}});
    }
    out.finish();
  }

  ScoreRequest request(const Engine& generator, std::int64_t vocab_size, const Row& row) const {
    ScoreRequest request;
    if (row.has("prompt_ids") || row.has("response_ids")) {
      request = {row.ids("prompt_ids"), row.ids("response_ids")};
      check_vocabulary("prompt_ids", request.prompt_ids, vocab_size);
      check_vocabulary("response_ids", request.response_ids, vocab_size);
    } else {
      const Messages prompt = row.conversation("prompt");
      request = {encode_conversation(generator.text(), prompt, row.template_variables()),
                 generator.text().encode_text(row.text("response"), /*special_tokens=*/false)};
    }
    if (request.prompt_ids.empty()) {
      throw InputError("field \"prompt_ids\" is empty, expected at least one token: nothing predicts the first one");
    }
    const auto tokens = static_cast<std::int64_t>(request.prompt_ids.size() + request.response_ids.size());
    if (tokens > generator.max_tokens()) {
      throw InputError(fmt::format("prompt and response have {} tokens, expected at most {}, the model's context",
                                   tokens, generator.max_tokens()));
    }
    return request;
  }

  Arguments arguments;
  ModelOptions options;
  EngineOptions engine;
  std::string input, output;
};

}  // namespace

Run score_command(CLI::App& app) {
  return [command = std::make_shared<Score>(app)] { command->run(); };
}

}  // namespace sao::cli
