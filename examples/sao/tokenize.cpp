// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

struct Tokenize {
  explicit Tokenize(CLI::App& app) : arguments(app) {
    arguments.add("model", model, "folder with the tokenizer's files", "m");
    arguments.add_input(input, "lines with \"text\" or \"messages\"; with --decode, \"ids\"");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
    arguments.add("chat-template", chat_template, "name of one of the model's chat templates, or a file with one");
    arguments.add("no-special-tokens", no_special_tokens, "no beginning-of-sequence token before plain text");
    arguments.add("decode", decode, "ids to text");
    arguments.add("skip-special-tokens", skip_special_tokens, "with --decode: leave special tokens out");
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    Output out(output);
    const ChatTokenizer text = ChatTokenizer::load(model_folder(model), {.chat_template = chat_template});
    std::vector<nlohmann::ordered_json> results;
    for_each_row(input, [&](const Row& row) { results.push_back(decode ? decoded(text, row) : encoded(text, row)); });
    for (const auto& result : results) out.write(result);
    out.finish();
  }

  nlohmann::ordered_json decoded(const ChatTokenizer& text, const Row& row) const {
    return {{"text", text.decode(row.ids("ids"), skip_special_tokens)}};
  }

  nlohmann::ordered_json encoded(const ChatTokenizer& text, const Row& row) const {
    if (row.has("messages") == row.has("text")) {
      throw InputError(fmt::format("{}, expected one of the two fields", row.has("text")
                                                                             ? "both \"text\" and \"messages\""
                                                                             : "neither \"text\" nor \"messages\""));
    }
    if (row.has("text")) {
      const std::string plain = row.text("text");
      return {{"ids", text.encode_text(plain, !no_special_tokens)}, {"text", plain}};
    }
    const Messages messages = row.messages("messages");
    const RenderOptions options = {.add_generation_prompt = row.find_bool("add_generation_prompt").value_or(false),
                                   .continue_final_message = row.find_bool("continue_final_message").value_or(false),
                                   .variables = row.template_variables()};
    return {{"ids", text.encode_chat(messages, options)}, {"text", text.render(messages, options)}};
  }

  Arguments arguments;
  std::string model, input, output, chat_template;
  bool no_special_tokens = false;
  bool decode = false;
  bool skip_special_tokens = false;
};

}  // namespace

Run tokenize_command(CLI::App& app) {
  return [command = std::make_shared<Tokenize>(app)] { command->run(); };
}

}  // namespace sao::cli
