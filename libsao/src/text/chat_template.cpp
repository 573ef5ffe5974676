// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/utf8.h"
#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "text/json_node.h"

namespace sao::detail {
namespace fs = std::filesystem;
namespace {

using jinja::Value;

// What marks the place where generation goes on: transformers' own word, which templates may see.
constexpr std::string_view kOpenEnd = "CONTINUE_FINAL_MESSAGE_TAG ";

void set_template(ChatTemplateSource source, std::vector<ChatTemplateSource>& templates) {
  const auto same = std::ranges::find(templates, source.name, &ChatTemplateSource::name);
  if (same == templates.end()) {
    templates.push_back(std::move(source));
  } else {
    *same = std::move(source);
  }
}

std::vector<ChatTemplateSource> templates_of_files(const fs::path& folder) {
  std::vector<ChatTemplateSource> templates;
  if (const auto file = folder / "chat_template.jinja"; detail::exists(file))
    templates.push_back({"default", read_file(file), file.string()});
  const fs::path more = folder / "additional_chat_templates";
  if (!detail::is_folder(more)) return templates;
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(more, error))
    if (entry.path().extension() == ".jinja") files.push_back(entry.path());
  std::ranges::sort(files);
  for (const fs::path& file : files) set_template({file.stem().string(), read_file(file), file.string()}, templates);
  return templates;
}

bool is_token(const JsonNode& node) {
  return node.value().is_string() || (node.value().is_object() && node.value().contains("content"));
}

std::string token_text(const JsonNode& node) {
  return node.value().is_object() ? node.at("content", "the token's text").string() : node.string();
}

// In our own words what the public templates of these formats render.
constexpr std::string_view kGemma =
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}"
    "{{ raise_exception('a system message, but Gemma knows none; put it into the first user message') }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if (loop.index0 % 2 == 0) != (message.role == 'user') %}"
    "{{ raise_exception('message ' ~ loop.index ~ ' is of \"' ~ message.role ~ '\", but user and assistant take turns,"
    " and the user begins') }}"
    "{% endif %}"
    "{{ '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\\n' }}"
    "{{ message.content | trim ~ '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";
constexpr std::string_view kLlama3 =
    "{{ bos_token }}"
    "{% macro header(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{% endmacro %}"
    "{% for message in messages %}{{ header(message.role) ~ message.content | trim ~ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ header('assistant') }}{% endif %}";
constexpr std::string_view kChatMl =
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

OrderedJson json_of(const Message& message, std::size_t index) {
  OrderedJson object = parse_ordered_json(message.json);
  if (!object.is_object())
    throw InputError(fmt::format("messages[{}]: Message::json is no JSON object, expected one", index));
  return object;
}

Value value_of(const OrderedJson& json) {
  return Value::parse_json(json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
}

// The texts of a content in parts, one after the other, as templates that read parts write them.
std::string joined_parts(const OrderedJson& parts, std::size_t index) {
  std::string text;
  for (const OrderedJson& part : parts) {
    if (!part.is_object() || !part.contains("text") || !part["text"].is_string())
      throw InputError(fmt::format(
          "messages[{}]: the content has a part of type {}, expected text alone: the chat template reads strings",
          index, part.is_object() && part.contains("type") ? describe_json(part["type"]) : describe_json(part)));
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

}  // namespace

std::vector<ChatTemplateSource> read_chat_templates(const fs::path& folder) {
  std::vector<ChatTemplateSource> templates = templates_of_files(folder);
  const fs::path file = folder / "tokenizer_config.json";
  if (!templates.empty() || !detail::exists(file)) return templates;
  const Json json = read_json_object(file);
  const auto node = JsonNode(json, file.string()).find("chat_template");
  if (!node) return templates;
  if (node->value().is_string()) return {{"default", node->string(), node->where()}};
  for (std::size_t i = 0; i < node->array_size(); ++i) {
    const JsonNode entry = (*node)[i];
    set_template({entry.at("name", "a name").string(), entry.at("template", "a template").string(), entry.where()},
                 templates);
  }
  return templates;
}

std::optional<ChatTemplateSource> built_in_chat_template(const Tokenizer& tokenizer) {
  const auto has = [&](std::string_view token) { return tokenizer.find_token(token).has_value(); };
  const auto built_in = [](std::string_view format, std::string_view text) {
    return ChatTemplateSource{"default", std::string(text), fmt::format("the built-in chat template for {}", format)};
  };
  if (has("<start_of_turn>") && has("<end_of_turn>")) return built_in("Gemma", kGemma);
  if (has("<|start_header_id|>") && has("<|end_header_id|>") && has("<|eot_id|>")) return built_in("Llama-3", kLlama3);
  if (has("<|im_start|>") && has("<|im_end|>")) return built_in("ChatML", kChatMl);
  return std::nullopt;
}

Value::Fields read_special_tokens(const fs::path& folder, const Tokenizer& tokenizer) {
  Value::Fields tokens;
  bool bos_mentioned = false;
  bool eos_mentioned = false;
  bool has_decoder = false;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path file = folder / name;
    if (has_decoder || !detail::exists(file)) continue;  // the second file is that of older folders
    const Json json = read_json_object(file);
    const JsonNode root(json, file.string());
    has_decoder = root.find("added_tokens_decoder").has_value();
    bos_mentioned = bos_mentioned || json.contains("bos_token");
    eos_mentioned = eos_mentioned || json.contains("eos_token");
    const auto add_all = [&](const JsonNode& node, bool any_name) {
      for (const auto& entry : node.value().items()) {
        const auto token = node.find(entry.key());
        if (token && (any_name || entry.key().ends_with("_token")) && is_token(*token))
          tokens.emplace_back(entry.key(), token_text(*token));
      }
    };
    add_all(root, false);
    if (const auto extra = root.find("extra_special_tokens"); extra && extra->value().is_object())
      add_all(*extra, true);
  }
  const auto add_own = [&](const char* name, bool mentioned, const std::optional<TokenId>& id) {
    if (!mentioned && id) tokens.emplace_back(name, tokenizer.decode(TokenIds{*id}, /*skip_special=*/false));
  };
  add_own("bos_token", bos_mentioned, tokenizer.bos_id());
  add_own("eos_token", eos_mentioned, tokenizer.eos_id());
  return tokens;
}

ChatTemplate::ChatTemplate(ChatTemplateSource source, Value::Fields variables, jinja::Settings settings)
    : source_(std::move(source)), variables_(std::move(variables)), settings_(settings) {
  try {
    parsed_.emplace(source_.text, source_.where);
  } catch (const jinja::TemplateError&) {
    return;  // plain text can be encoded all the same
  }
  reads_parts_ = reads_parts();
}

// Whether a content in parts comes out as its text, and not as a list that is written out.
bool ChatTemplate::reads_parts() const {
  constexpr const char* kText = "PROBE";
  const Value part = Value::dict({{"type", "text"}, {"text", kText}});
  try {
    const std::string text =
        render_values({Value::dict({{"role", "user"}, {"content", Value::list({part})}})}, RenderOptions{});
    const auto place = text.find(kText);
    return place != text.npos && text.find("text'") == text.npos && text.find("text\"") == text.npos;
  } catch (const jinja::TemplateError&) {
    return false;
  }
}

Value ChatTemplate::message_value(const Message& message, std::size_t index) const {
  if (message.json.empty()) return Value::dict({{"role", message.role}, {"content", message.content}});
  OrderedJson object = json_of(message, index);
  if (const auto content = object.find("content"); content != object.end() && content->is_array() && !reads_parts_)
    *content = joined_parts(*content, index);
  return value_of(object);
}

// The last message with the mark at its end; `said` is what stands before it.
Value ChatTemplate::open_message_value(const Message& message, std::size_t index, std::string& said) const {
  const auto open = [&](std::string text) {
    said = replace_invalid_utf8(text);
    return text + std::string(kOpenEnd);
  };
  if (message.json.empty()) return Value::dict({{"role", message.role}, {"content", open(message.content)}});
  OrderedJson object = json_of(message, index);
  const auto content = object.find("content");
  if (content != object.end() && content->is_array()) {
    if (!reads_parts_) {
      *content = open(joined_parts(*content, index));
      return value_of(object);
    }
    const auto last = std::find_if(content->rbegin(), content->rend(), [](const OrderedJson& part) {
      return part.is_object() && part.contains("text") && part["text"].is_string();
    });
    if (last != content->rend()) {
      (*last)["text"] = open((*last)["text"].get<std::string>());
      return value_of(object);
    }
  } else if (content != object.end() && content->is_string()) {
    *content = open(content->get<std::string>());
    return value_of(object);
  }
  throw InputError(
      fmt::format("messages[{}]: no text in its content, expected some that continue_final_message can go "
                  "on with",
                  index));
}

std::string ChatTemplate::render_values(std::vector<Value> messages, const RenderOptions& options) const {
  Value::Fields variables;
  variables.reserve(variables_.size() + options.variables.size() + 4);
  variables.emplace_back("messages", Value::list(std::move(messages)));
  variables.emplace_back("tools", Value());
  variables.emplace_back("documents", Value());
  variables.emplace_back("add_generation_prompt", options.add_generation_prompt);
  variables.insert(variables.end(), variables_.begin(), variables_.end());
  variables.insert(variables.end(), options.variables.begin(), options.variables.end());
  return parsed_->render(Value::dict(variables), settings_);
}

// Follows: transformers 5.17, chat_template_utils.py, render_jinja_template.
std::string ChatTemplate::render(const Messages& messages, const RenderOptions& options) const {
  if (!parsed_) jinja::Template(source_.text, source_.where);  // throws, as it did before
  if (messages.empty()) throw InputError("messages: none, expected at least one");
  if (options.add_generation_prompt && options.continue_final_message)
    throw InputError(
        "messages: add_generation_prompt and continue_final_message together, expected at most one of them");
  std::vector<Value> values;
  values.reserve(messages.size());
  const std::size_t plain = messages.size() - (options.continue_final_message ? 1 : 0);
  for (std::size_t i = 0; i < plain; ++i) values.push_back(message_value(messages[i], i));
  if (!options.continue_final_message) return render_values(std::move(values), options);

  std::string said;
  values.push_back(open_message_value(messages.back(), plain, said));
  if (source_.text.find("content") == source_.text.npos)
    throw InputError(
        fmt::format("{}: never reads \"content\", expected it to for continue_final_message", source_.where));
  std::string text = render_values(std::move(values), options);
  const std::string_view mark = strip_right(kOpenEnd);
  const std::size_t place = text.rfind(mark);
  if (place == text.npos || text.find(strip(said)) == text.npos)
    throw InputError(
        fmt::format("{}: does not write the last message as it is, expected it to for "
                    "continue_final_message",
                    source_.where));
  // A template that trims the message takes the mark's blank too; then blanks before the mark would have gone as well.
  const bool trimmed = text.compare(place, kOpenEnd.size(), kOpenEnd) != 0;
  text.resize(place);
  if (trimmed) text.resize(strip_right(text).size());
  return text;
}

}  // namespace sao::detail
