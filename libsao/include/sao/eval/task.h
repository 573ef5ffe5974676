// SPDX-License-Identifier: Apache-2.0
// Benchmark rows as what a model is asked, by the conventions of lm-evaluation-harness: templates, few-shot examples,
// the border between context and continuation.
//   sao::Task task = sao::read_task("arc.jsonl", generator.text(), {.doc_to_text = "Question: {{question}}\nAnswer:"});
//   auto result = sao::measure_multiple_choice(generator, task.items);    // eval/multiple_choice.h
// Follows: lm_eval 0.4.13, api/task.py, api/samplers.py and models/huggingface.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/generate/generator.h"
#include "sao/text/chat.h"

namespace sao {

/// How rows become requests. Templates are in the language Jinja2 with the fields of the row as variables; an empty
/// one takes the row's own fields (see read_task). Every name and default is lm-evaluation-harness'.
struct TaskOptions {
  std::string doc_to_text = {};    ///< the question: a template or the name of a field
  std::string doc_to_choice = {};  ///< the choices: a field, `{{a.b}}` (a field in a field) or a JSON list of templates
  std::string doc_to_target = {};  ///< the right answer: a field or a template; with choices a number or one of them
  std::string description = {};    ///< text before the examples
  std::string target_delimiter = " ";      ///< between a question and its answer
  std::string fewshot_delimiter = "\n\n";  ///< after an example
  std::int64_t num_fewshot = 0;            ///< examples before each question
  std::string fewshot_order = "sampled";   ///< "sampled", or "first": the first ones, as MMLU
  Seed fewshot_seed = {1234};              ///< of the sampled examples: the same that lm-evaluation-harness draws
  std::string prompt_format = "auto";      ///< "plain": text to continue; "chat": a turn of the user; "auto"
  bool fewshot_as_multiturn = true;        ///< in the chat format: examples are turns, not part of the question
};

template <class Visitor, OptionsOf<TaskOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("doc_to_text", options.doc_to_text, "the question: a Jinja template of the row's fields, or a field");
  visit("doc_to_choice", options.doc_to_choice, "the choices: a field, {{a.b}}, or a JSON list of templates");
  visit("doc_to_target", options.doc_to_target, "the right answer: a field or a template");
  visit("description", options.description, "text before examples and question");
  visit("target_delimiter", options.target_delimiter, "between question and answer");
  visit("fewshot_delimiter", options.fewshot_delimiter, "after each example");
  visit("num_fewshot", options.num_fewshot, "examples before each question");
  visit("fewshot_order", options.fewshot_order, "sampled, or first: the first examples for every question");
  visit("fewshot_seed", options.fewshot_seed, "seed of sampled examples");
  visit("prompt_format", options.prompt_format, "plain (text to continue), chat (a user's turn) or auto");
  visit("fewshot_as_multiturn", options.fewshot_as_multiturn, "chat: examples are turns of their own");
}

/// Throws InputError naming every field out of range.
void validate(const TaskOptions& options);

enum class TaskKind { kMultipleChoice, kGeneration, kText };

/// One question as text, examples and all.
struct TaskItem {
  std::vector<std::string> contexts = {};       ///< what stands before: one for each choice; one where it is written
  std::vector<std::string> continuations = {};  ///< whose likelihood decides, delimiter included: one for each choice
  std::vector<std::string> choices = {};        ///< without delimiter: their length normalises
  std::size_t right = 0;                        ///< of choices
  std::vector<bool> truths = {};          ///< several right choices, as TruthfulQA's mc2; then `right` is not used
  std::vector<std::string> answers = {};  ///< where the model writes: any of them is right
  std::string text = {};                  ///< kText: what is to be predicted
  std::string counted_text = {};          ///< kText: whose words and bytes are counted
};

struct Task {
  TaskKind kind = TaskKind::kMultipleChoice;
  bool chat = false;  ///< contexts are conversations in the model's chat format
  std::vector<TaskItem> items = {};
};

/// Reads rows (JSON Lines) of one kind, which the first row decides:
/// - several choices: `choices` (a list of texts; or {"text": [...], "label": [...]}, as ARC has them) and the right
///   one in `label`, `answer`, `answerKey` or `gold` (its number from 0, its text or its label), or `labels` (a list of
///   0 and 1). The question is `question` or `context`;
/// - partial contexts (Winogrande): `contexts`, one for each choice, the same `continuation` for all, and `label`;
/// - an answer to write: a question and `answer`, a text, a number or a list of texts of which any is right;
/// - text to predict: `text`, and with `original` another text whose words and bytes are counted.
/// In the format "auto", a `question` (or `prompt`) is asked as the user's turn in the chat format, and a `context`, or
/// what a template makes, is text to continue. A question may be a list of messages.
/// Few-shot examples are the rows of `fewshot_rows`; an empty path takes them from `rows`, the asked one left out.
/// Throws InputError naming file, line and field.
Task read_task(const std::filesystem::path& rows, const ChatTokenizer& text, const TaskOptions& options = {},
               const std::filesystem::path& fewshot_rows = {});

/// Context and continuation in tokens: blanks at the context's end move to the continuation; both are encoded as one
/// text, which is cut where the context's own encoding ends. A BOS stands in front where the tokenizer adds one. An
/// empty context is the BOS, without one the eos token. What is too long loses tokens at the left until `max_tokens` +
/// 1 are left. Throws InputError: a continuation without tokens, or of more than `max_tokens`.
ScoreRequest continuation_request(const ChatTokenizer& text, std::string_view context, std::string_view continuation,
                                  std::int64_t max_tokens);

/// A context to be continued in at most `max_new_tokens`; what is too long loses tokens at the left.
/// Throws InputError: `max_new_tokens` leaves no room in `max_tokens`.
TokenIds context_ids(const ChatTokenizer& text, std::string_view context, std::int64_t max_tokens,
                     std::int64_t max_new_tokens);

}  // namespace sao
