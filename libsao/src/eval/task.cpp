// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/task.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/utf8.h"
#include "eval/python_random.h"
#include "eval/task_row.h"
#include "sao/base/error.h"
#include "sao/io/jsonl.h"

namespace sao {
namespace {

using detail::TaskRow;

/// Examples for question after question, as lm_eval's samplers give them.
class FewShot {
 public:
  FewShot(const std::vector<TaskRow>& pool, bool same_rows, const TaskOptions& options)
      : pool_(pool),
        same_rows_(same_rows),
        count_(static_cast<std::size_t>(options.num_fewshot)),
        sampled_(options.fewshot_order == "sampled"),
        random_(options.fewshot_seed.value) {}

  std::vector<const TaskRow*> examples(const TaskRow& asked) {
    std::vector<const TaskRow*> chosen;
    if (count_ == 0) return chosen;
    const auto take = [&](std::size_t i) {
      if (chosen.size() < count_ && !(same_rows_ && pool_[i].json == asked.json)) chosen.push_back(&pool_[i]);
    };
    if (!sampled_) {
      for (std::size_t i = 0; i < pool_.size(); ++i) take(i);
    } else {
      const std::size_t drawn = count_ + (same_rows_ ? 1 : 0);
      need(pool_.size(), drawn);
      for (const std::size_t i : random_.sample(pool_.size(), drawn)) take(i);
      if (chosen.size() < count_) {  // the asked row stands twice: once more, without any of it
        std::vector<const TaskRow*> others;
        for (const TaskRow& row : pool_) {
          if (row.json != asked.json) others.push_back(&row);
        }
        need(others.size(), count_);
        chosen.clear();
        for (const std::size_t i : random_.sample(others.size(), count_)) chosen.push_back(others[i]);
      }
    }
    need(chosen.size(), count_);
    return chosen;
  }

 private:
  static void need(std::size_t found, std::size_t expected) {
    if (found < expected) {
      throw InputError(
          fmt::format("few-shot examples: {} rows to take them from, expected at least {}", found, expected));
    }
  }

  const std::vector<TaskRow>& pool_;
  bool same_rows_;
  std::size_t count_;
  bool sampled_;
  detail::PythonRandom random_;
};

std::vector<TaskRow> read_rows(const std::filesystem::path& path, const detail::RowReader& reader) {
  std::vector<TaskRow> rows;
  for_each_line(path, [&](std::string_view line) {
    rows.push_back(reader.read(line));
    if (rows.back().kind != rows.front().kind || rows.back().chat != rows.front().chat ||
        rows.back().contexts.empty() != rows.front().contexts.empty() ||
        rows.back().truths.empty() != rows.front().truths.empty()) {
      throw InputError("a row of another kind than the first, expected one kind of rows in a file");
    }
  });
  if (rows.empty()) throw InputError(fmt::format("{}: no rows, expected questions", path.string()));
  return rows;
}

/// The text before the answer, for each context of the row.
class Prompts {
 public:
  Prompts(const ChatTokenizer& text, const TaskOptions& options) : text_(text), options_(options) {}

  std::vector<std::string> contexts(const TaskRow& row, const std::vector<const TaskRow*>& examples) const {
    std::vector<std::string> result;
    if (row.contexts.empty()) return {row.chat ? conversation(row, examples) : plain(row.question(), examples)};
    for (const std::string& context : row.contexts) result.push_back(plain(context, examples));
    return result;
  }

 private:
  std::string plain(const std::string& question, const std::vector<const TaskRow*>& examples) const {
    return options_.description + examples_text(examples) + question;
  }

  std::string examples_text(const std::vector<const TaskRow*>& examples) const {
    std::string text;
    for (const TaskRow* example : examples) {
      text += example->example_question() + options_.target_delimiter + example->example_answer() +
              options_.fewshot_delimiter;
    }
    return text;
  }

  std::string conversation(const TaskRow& row, const std::vector<const TaskRow*>& examples) const {
    Messages messages;
    if (!options_.description.empty()) messages.push_back({"system", options_.description});
    Messages asked = row.messages;
    if (options_.fewshot_as_multiturn) {
      for (const TaskRow* example : examples) {
        messages.push_back({"user", example->example_question()});
        messages.push_back({"assistant", example->example_answer()});
      }
    } else {
      if (!asked.front().json.empty() && !examples.empty()) {
        throw InputError("a question that is more than a text, expected a text before which examples can stand");
      }
      asked.front().content.insert(0, examples_text(examples));
    }
    messages.insert(messages.end(), asked.begin(), asked.end());
    return text_.render(messages, {.add_generation_prompt = true});
  }

  const ChatTokenizer& text_;
  const TaskOptions& options_;
};

}  // namespace

void validate(const TaskOptions& options) {
  std::vector<std::string> problems;
  if (options.num_fewshot < 0) {
    problems.push_back(fmt::format("num_fewshot: {}, expected 0 or more", options.num_fewshot));
  }
  if (options.fewshot_order != "sampled" && options.fewshot_order != "first") {
    problems.push_back(fmt::format("fewshot_order: \"{}\", expected sampled or first", options.fewshot_order));
  }
  if (options.prompt_format != "auto" && options.prompt_format != "plain" && options.prompt_format != "chat") {
    problems.push_back(fmt::format("prompt_format: \"{}\", expected auto, plain or chat", options.prompt_format));
  }
  if (!problems.empty()) throw InputError(fmt::format("TaskOptions: {}", fmt::join(problems, "; ")));
}

Task read_task(const std::filesystem::path& rows_file, const ChatTokenizer& text, const TaskOptions& options,
               const std::filesystem::path& fewshot_rows) {
  validate(options);
  const detail::RowReader reader(options);
  const std::vector<TaskRow> rows = read_rows(rows_file, reader);
  const bool same_rows = fewshot_rows.empty();
  const std::vector<TaskRow> others = same_rows ? std::vector<TaskRow>() : read_rows(fewshot_rows, reader);
  if (options.num_fewshot > 0 && rows[0].kind == TaskKind::kText) {
    throw InputError(
        fmt::format("{}: text to predict with num_fewshot {}, expected none", rows_file.string(), options.num_fewshot));
  }
  FewShot few_shot(same_rows ? rows : others, same_rows, options);
  const Prompts prompts(text, options);

  Task task = {.kind = rows[0].kind, .chat = rows[0].chat};
  for (const TaskRow& row : rows) {
    TaskItem item = {.choices = row.choices, .right = row.right, .truths = row.truths};
    if (task.kind == TaskKind::kText) {
      item.text = row.text;
      item.counted_text = row.counted_text;
    } else {
      item.contexts = prompts.contexts(row, few_shot.examples(row));
    }
    if (task.kind == TaskKind::kGeneration) item.answers = row.answers;
    // The header of the assistant's turn ends the context: no delimiter follows.
    const std::string delimiter = task.chat ? "" : options.target_delimiter;
    if (!row.contexts.empty()) {
      item.continuations.assign(row.contexts.size(), delimiter + row.continuation);
    } else {
      for (const std::string& choice : row.choices) item.continuations.push_back(delimiter + choice);
    }
    task.items.push_back(std::move(item));
  }
  return task;
}

ScoreRequest continuation_request(const ChatTokenizer& text, std::string_view context, std::string_view continuation,
                                  std::int64_t max_tokens) {
  ScoreRequest request;
  TokenIds& ids = request.response_ids;
  const auto prefix = [&] {
    const auto bos = text.tokenizer().bos_id();
    const auto first = bos ? bos : text.tokenizer().eos_id();
    if (!first) throw InputError("the tokenizer has neither bos nor eos, expected one to stand before the first token");
    return *first;
  };
  if (context.empty()) {
    ids = text.encode_text(continuation, /*special_tokens=*/false);
    if (ids.empty() || ids.front() != prefix()) {
      request.prompt_ids = {prefix()};
    } else {
      request.prompt_ids = {ids.front()};
      ids.erase(ids.begin());
    }
  } else {
    const std::string_view head = detail::strip_right(context);
    request.prompt_ids = text.encode_text(head);
    ids = text.encode_text(std::string(context) + std::string(continuation));
    const std::size_t border = std::min(request.prompt_ids.size(), ids.size());
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(border));
    if (request.prompt_ids.empty()) request.prompt_ids = {prefix()};  // blanks only, and no BOS
  }
  if (ids.empty()) throw InputError(fmt::format("\"{}\" adds no token, expected at least one", continuation));
  if (static_cast<std::int64_t>(ids.size()) > max_tokens) {
    throw InputError(
        fmt::format("a continuation of {} tokens, expected at most {}, the model's context", ids.size(), max_tokens));
  }
  const std::size_t room = static_cast<std::size_t>(max_tokens) + 1 - ids.size();
  if (request.prompt_ids.size() > room) {
    request.prompt_ids.erase(request.prompt_ids.begin(), request.prompt_ids.end() - static_cast<std::ptrdiff_t>(room));
  }
  return request;
}

TokenIds context_ids(const ChatTokenizer& text, std::string_view context, std::int64_t max_tokens,
                     std::int64_t max_new_tokens) {
  if (max_new_tokens >= max_tokens) {
    throw InputError(
        fmt::format("max_new_tokens: {}, expected fewer than {}, the model's context", max_new_tokens, max_tokens));
  }
  TokenIds ids = text.encode_text(context);
  const auto room = static_cast<std::size_t>(max_tokens - max_new_tokens);
  if (ids.size() > room) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(room));
  return ids;
}

}  // namespace sao
