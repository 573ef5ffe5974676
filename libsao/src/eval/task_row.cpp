// SPDX-License-Identifier: Apache-2.0
#include "eval/task_row.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "data/message_json.h"
#include "sao/base/error.h"

namespace sao::detail {
namespace {

/// lm_eval keeps a template's last line break; this room of ours, made for chat templates, drops one.
jinja::Template make_template(const std::string& source, const char* name) {
  return jinja::Template(source.ends_with('\n') ? source + '\n' : source, name);
}

std::string render(const jinja::Template& source, const jinja::Value& variables) {
  return source.render(variables, {.strict_undefined = true});
}

/// `{{ a.b }}` as {"a", "b"}; nothing for other templates.
std::vector<std::string> path_of(std::string_view source) {
  source = strip(source);
  if (!source.starts_with("{{") || !source.ends_with("}}") || source.size() < 5) return {};
  source = strip(source.substr(2, source.size() - 4));
  std::vector<std::string> path;
  for (;;) {
    const std::string_view name = source.substr(0, source.find('.'));
    const bool good = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (!good) return {};
    path.emplace_back(name);
    if (name.size() == source.size()) return path;
    source.remove_prefix(name.size() + 1);
  }
}

std::vector<std::string> texts_of(const Json& value, std::string_view name) {
  std::vector<std::string> texts;
  if (!JsonForm<std::vector<std::string>>::read(value, texts)) {
    throw_field_error("", name, value, JsonForm<std::vector<std::string>>::kExpected);
  }
  return texts;
}

/// The first of these fields that is there.
const char* find_name(const Json& row, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto field = row.find(name);
    if (field != row.end() && !field->is_null()) return name;
  }
  return nullptr;
}

/// A field as text: numbers as they stand.
std::string text_of(const Json& value, std::string_view name) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number()) throw_field_error("", name, value, "a text or a number");
  return value.dump();
}

void check_choices(const std::vector<std::string>& choices) {
  if (choices.size() < 2 ||
      std::any_of(choices.begin(), choices.end(), [](const std::string& choice) { return strip(choice).empty(); })) {
    throw InputError(fmt::format("{} choices, expected at least two, none of them blank", choices.size()));
  }
}

/// The number of the right choice: given as such, as one of the choices, or as one of their labels.
std::size_t find_choice(const Json& value, std::string_view name, const std::vector<std::string>& choices,
                        const std::vector<std::string>& labels) {
  if (value.is_number_integer() && value.get<std::int64_t>() >= 0 && value.get<std::uint64_t>() < choices.size()) {
    return value.get<std::size_t>();
  }
  if (value.is_string()) {
    for (const auto* list : {&labels, &choices}) {
      const auto found = std::find(list->begin(), list->end(), value.get<std::string>());
      const auto number = static_cast<std::size_t>(found - list->begin());
      if (found != list->end() && number < choices.size()) return number;  // there may be more labels than choices
    }
  }
  throw_field_error("", name, value, fmt::format("0 to {} or one of the choices", choices.size() - 1));
}

std::vector<std::string> choice_labels(const Json& row) {
  const auto field = row.find("choices");
  if (field == row.end() || !field->is_object() || !field->contains("label")) return {};
  return texts_of((*field)["label"], "choices.label");
}

}  // namespace

const std::string& TaskRow::example_answer() const {
  if (!contexts.empty()) return continuation;
  if (kind == TaskKind::kGeneration) return answers.front();
  const auto true_one = std::find(truths.begin(), truths.end(), true);
  return choices[truths.empty() ? right : static_cast<std::size_t>(true_one - truths.begin())];
}

RowReader::RowReader(const TaskOptions& options) : options_(options) {
  if (!options.doc_to_text.empty()) text_ = make_template(options.doc_to_text, "doc_to_text");
  if (!options.doc_to_target.empty()) target_ = make_template(options.doc_to_target, "doc_to_target");
  if (options.doc_to_choice.empty()) return;
  if (strip(options.doc_to_choice).starts_with('[')) {
    for (const std::string& source : texts_of(parse_json(options.doc_to_choice, "doc_to_choice"), "doc_to_choice")) {
      choices_.push_back(make_template(source, "doc_to_choice"));
    }
    return;
  }
  choices_path_ = path_of(options.doc_to_choice);
  if (choices_path_.empty()) choices_path_ = path_of("{{" + options.doc_to_choice + "}}");
  if (choices_path_.empty()) {
    throw InputError(fmt::format("doc_to_choice: \"{}\", expected a field, {{{{a.b}}}} or a JSON list of templates",
                                 options.doc_to_choice));
  }
}

void RowReader::read_question(const Json& row, const jinja::Value& variables, TaskRow& result) const {
  const bool asks_chat = options_.prompt_format == "chat";
  result.chat = asks_chat;
  if (text_) {
    const auto field = row.find(options_.doc_to_text);
    const std::string question = field != row.end() ? text_of(*field, options_.doc_to_text) : render(*text_, variables);
    result.messages = {{"user", question}};
    return;
  }
  const char* name = find_name(row, {"context", "question", "prompt"});
  if (name == nullptr) throw_missing_field("", "question", "a question or a \"context\"");
  const Json& field = row[name];
  if (options_.prompt_format == "auto") result.chat = name != std::string_view("context");
  if (field.is_string()) {
    result.messages = {{"user", field.get<std::string>()}};
    if (result.chat && strip(result.messages[0].content).empty()) {
      throw_field_error("", name, field, "a text that is not blank");
    }
    return;
  }
  if (!field.is_array()) throw_field_error("", name, field, "a string or a list of messages");
  result.messages = messages_from_json(field, fmt::format("field \"{}\"", name));
  if (!result.chat) {
    throw InputError(
        fmt::format("field \"{}\" is a list of messages, expected a string in the format \"plain\"", name));
  }
}

std::vector<std::string> RowReader::read_choices(const Json& row, const jinja::Value& variables) const {
  std::vector<std::string> choices;
  if (!choices_.empty()) {
    for (const jinja::Template& choice : choices_) choices.push_back(render(choice, variables));
    return choices;
  }
  std::vector<std::string> path = choices_path_;
  if (path.empty()) {
    path = {"choices"};
    const auto field = row.find("choices");
    if (field != row.end() && field->is_object()) path.emplace_back("text");
  }
  const Json* value = &row;
  std::string name;
  for (const std::string& part : path) {
    name += name.empty() ? part : "." + part;
    if (!value->is_object() || !value->contains(part)) throw_missing_field("", name, "a list of choices");
    value = &(*value)[part];
  }
  return texts_of(*value, name);
}

void RowReader::read_target(const Json& row, const jinja::Value& variables, TaskRow& result) const {
  const bool chooses = result.kind == TaskKind::kMultipleChoice;
  const std::vector<std::string>& choices = result.contexts.empty() ? result.choices : result.contexts;
  const char* expected = chooses ? "the right choice" : "the right answer";
  std::string name = options_.doc_to_target;
  Json value;
  if (target_ && !row.contains(name)) {
    std::string rendered = render(*target_, variables);
    const bool number =
        !rendered.empty() && rendered.size() < 10 && rendered.find_first_not_of("0123456789") == std::string::npos;
    value = chooses && number ? Json(std::stoll(rendered)) : Json(std::move(rendered));
    name = "doc_to_target";
  } else {
    if (!target_) {
      if (chooses && row.contains("labels")) {
        const auto labels = get_field<std::vector<std::int64_t>>(row, "labels", "");
        if (labels.size() != choices.size() || std::find(labels.begin(), labels.end(), 1) == labels.end() ||
            std::any_of(labels.begin(), labels.end(), [](std::int64_t label) { return label != 0 && label != 1; })) {
          throw_field_error("", "labels", row["labels"], "a 0 or 1 for each choice, one of them 1");
        }
        for (const std::int64_t label : labels) result.truths.push_back(label == 1);
        return;
      }
      const char* found = find_name(row, {"label", "answer", "answerKey", "gold"});
      if (found == nullptr) throw_missing_field("", "answer", expected);
      name = found;
    }
    if (row[name].is_null()) throw_missing_field("", name, expected);
    value = row[name];
  }
  if (chooses) {
    result.right = find_choice(value, name, choices, choice_labels(row));
  } else if (value.is_array()) {
    result.answers = texts_of(value, name);
    if (result.answers.empty()) throw_field_error("", name, value, "at least one answer");
  } else {
    result.answers = {text_of(value, name)};
  }
}

TaskRow RowReader::read(std::string_view line) const {
  TaskRow result;
  result.json = parse_json_object(line, "");
  const Json& row = result.json;
  const jinja::Value variables = jinja::Value::parse_json(line);
  const bool templates = text_ || target_ || !options_.doc_to_choice.empty();
  if (row.contains("contexts") && !templates) {
    result.contexts = get_field<std::vector<std::string>>(row, "contexts", "");
    result.choices = result.contexts;
    check_choices(result.contexts);
    result.continuation = get_field<std::string>(row, "continuation", "");
    if (options_.prompt_format == "chat") {
      throw InputError("field \"contexts\" in the chat format, expected the format \"plain\"");
    }
    read_target(row, variables, result);
    return result;
  }
  if (!templates && find_name(row, {"context", "question", "prompt"}) == nullptr && row.contains("text")) {
    result.kind = TaskKind::kText;
    result.text = get_field<std::string>(row, "text", "");
    result.counted_text = find_field<std::string>(row, "original", "").value_or(result.text);
    return result;
  }
  const bool chooses = !options_.doc_to_choice.empty() || (row.contains("choices") && !row["choices"].is_null());
  result.kind = chooses ? TaskKind::kMultipleChoice : TaskKind::kGeneration;
  read_question(row, variables, result);
  if (chooses) {
    result.choices = read_choices(row, variables);
    check_choices(result.choices);
  }
  read_target(row, variables, result);
  return result;
}

}  // namespace sao::detail
