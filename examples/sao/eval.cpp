// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/base/statistics.h>
#include <sao/generate/engine.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <numeric>
#include <optional>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"
#include "rows.h"

namespace sao::cli {
namespace {

/// One question: with choices, the most likely one is the answer; without, the model writes it.
struct Question {
  TokenIds prompt = {};
  std::vector<std::string> choices = {};
  std::vector<TokenIds> choice_ids = {};
  std::size_t right = 0;    ///< of choices
  std::string answer = {};  ///< where there are no choices
};

/// Lower case, blanks as single ones, without punctuation at both ends.
std::string normalized(std::string_view text) {
  std::string plain;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isspace(byte) != 0) {
      if (!plain.empty() && plain.back() != ' ') plain += ' ';
    } else {
      plain += static_cast<char>(std::tolower(byte));
    }
  }
  const auto is_edge = [](char c) {
    return c == ' ' || (std::ispunct(static_cast<unsigned char>(c)) != 0 && c != '-');
  };
  while (!plain.empty() && is_edge(plain.back())) plain.pop_back();
  const auto begin = std::find_if_not(plain.begin(), plain.end(), is_edge);
  return {begin, plain.end()};
}

/// The last number in a text, without thousands separators and trailing zeros: GSM8K's rule.
std::optional<std::string> last_number(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0 && std::isdigit(static_cast<unsigned char>(text[end - 1])) == 0) --end;
  if (end == 0) return std::nullopt;
  std::size_t begin = end;
  const auto belongs = [&](std::size_t i) {
    const char c = text[i];
    return std::isdigit(static_cast<unsigned char>(c)) != 0 ||
           ((c == ',' || c == '.') && i > 0 && std::isdigit(static_cast<unsigned char>(text[i - 1])) != 0);
  };
  while (begin > 0 && belongs(begin - 1)) --begin;
  const bool negative = begin > 0 && text[begin - 1] == '-';
  std::string number(text.substr(begin, end - begin));
  number.erase(std::remove(number.begin(), number.end(), ','), number.end());
  if (number.find('.') != std::string::npos) {
    while (number.back() == '0') number.pop_back();
    if (number.back() == '.') number.pop_back();
  }
  return (negative ? "-" : "") + number;
}

/// What stands behind "####" where it does (GSM8K's references).
std::string reference_answer(const std::string& answer) {
  const std::size_t mark = answer.rfind("####");
  return mark == std::string::npos ? answer : answer.substr(mark + 4);
}

bool matches(const std::string& response, const std::string& answer) {
  const std::string wanted = reference_answer(answer);
  const std::optional<std::string> number = last_number(wanted);
  if (number && normalized(wanted).find_first_not_of("0123456789.,-$% ") == std::string::npos) {
    return last_number(response) == number;
  }
  return normalized(response) == normalized(wanted);
}

struct Eval {
  explicit Eval(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add("task", task,
                  "lines with \"question\" and \"answer\"; with \"choices\", the answer is one or its number");
    arguments.add("output", output, "file for the result; nothing is the standard output", "o");
    arguments.add_fields(sampling, with_dashes);
    arguments.add("seed", seed, "seed of sampled answers");
    arguments.add_fields(engine, with_dashes);
  }

  void run() {
    arguments.finish();
    arguments.require("model");
    arguments.require("task");
    check_model_options(options);
    check_options(sampling);
    check_options(engine);
    Output out(output);
    Engine generator(load_model(options), ChatTokenizer::load(model_folder(options.model)), engine);
    std::vector<Question> questions;
    for_each_row(task, [&](const Row& row) { questions.push_back(question(generator, row)); });
    if (questions.empty()) throw InputError(fmt::format("{}: no rows, expected questions", task));
    const bool choice = !questions[0].choices.empty();
    for (const Question& one : questions) {
      if (one.choices.empty() == choice) {
        throw InputError(fmt::format("{}: rows with and without \"choices\", expected one kind", task));
      }
    }
    out.write(choice ? choose(generator, questions) : answer(generator, questions));
    out.finish();
  }

  static Question question(const Engine& generator, const Row& row) {
    Question question;
    question.prompt =
        encode_conversation(generator.text(), row.conversation(row.has("question") ? "question" : "prompt"));
    if (static_cast<std::int64_t>(question.prompt.size()) >= generator.max_tokens()) {
      throw InputError(fmt::format("the question has {} tokens, expected fewer than {}, the model's context",
                                   question.prompt.size(), generator.max_tokens()));
    }
    if (!row.has("choices")) {
      question.answer = row.text("answer");
      return question;
    }
    question.choices = row.texts("choices");
    question.right = row.index_of("answer", question.choices);
    for (const std::string& text : question.choices) {
      question.choice_ids.push_back(generator.text().encode_text(text, /*special_tokens=*/false));
      const std::size_t tokens = question.prompt.size() + question.choice_ids.back().size();
      if (static_cast<std::int64_t>(tokens) > generator.max_tokens()) {
        throw InputError(fmt::format("question and choice have {} tokens, expected at most {}, the model's context",
                                     tokens, generator.max_tokens()));
      }
    }
    return question;
  }

  /// accuracy: the choice with the largest log-probability. accuracy_norm: the same for each byte of the choice, which
  /// takes away the advantage of short ones.
  static nlohmann::ordered_json choose(Engine& generator, const std::vector<Question>& questions) {
    std::vector<ScoreRequest> requests;
    for (const Question& question : questions) {
      for (const TokenIds& ids : question.choice_ids) requests.push_back({question.prompt, ids});
    }
    const std::vector<std::vector<double>> logps = generator.score(requests);
    std::vector<double> right, right_by_byte;
    std::size_t next = 0;
    for (const Question& question : questions) {
      std::vector<double> sums, by_byte;
      for (const std::string& text : question.choices) {
        sums.push_back(std::accumulate(logps[next].begin(), logps[next].end(), 0.0));
        by_byte.push_back(sums.back() / static_cast<double>(text.size()));
        ++next;
      }
      const auto best = [](const std::vector<double>& values) {
        return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
      };
      right.push_back(best(sums) == question.right ? 1.0 : 0.0);
      right_by_byte.push_back(best(by_byte) == question.right ? 1.0 : 0.0);
    }
    return {{"accuracy", mean(right)},
            {"standard_error", standard_error(right)},
            {"accuracy_norm", mean(right_by_byte)},
            {"standard_error_norm", standard_error(right_by_byte)},
            {"n", questions.size()}};
  }

  nlohmann::ordered_json answer(Engine& generator, const std::vector<Question>& questions) const {
    std::vector<GenerationRequest> requests;
    for (const Question& question : questions) {
      requests.push_back({.prompt_ids = question.prompt, .seed = seed.fork(requests.size())});
    }
    std::vector<double> right(questions.size());
    std::vector<double> cut(questions.size());
    const ProgressSink progress = terminal_progress();
    std::size_t done = 0;
    generator.generate(requests, sampling, [&](std::size_t i, std::int64_t, const Completion& completion) {
      right[i] = matches(generator.text().response_text(completion.ids), questions[i].answer) ? 1.0 : 0.0;
      cut[i] = completion.finish_reason == FinishReason::kLength ? 1.0 : 0.0;
      ++done;
      if (progress) progress("answers", done, questions.size());
    });
    return {{"accuracy", mean(right)},
            {"standard_error", standard_error(right)},
            {"truncated", mean(cut)},
            {"n", questions.size()}};
  }

  Arguments arguments;
  ModelOptions options;
  SamplingOptions sampling = {.temperature = 0.0, .max_new_tokens = 512};
  EngineOptions engine;
  std::string task, output;
  Seed seed = {42};
};

}  // namespace

Run eval_command(CLI::App& app) {
  return [command = std::make_shared<Eval>(app)] { command->run(); };
}

}  // namespace sao::cli
