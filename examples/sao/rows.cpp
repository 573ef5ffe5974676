// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/io/jsonl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

namespace sao::cli {
namespace {

using json = nlohmann::ordered_json;  // templates may write an object out, in the order of its fields

std::string describe(const json& value) {
  constexpr std::size_t kMaxBytes = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kMaxBytes) return text;
  return json(text.substr(1, kMaxBytes)).dump(-1, ' ', false, json::error_handler_t::ignore) + "...";
}

}  // namespace

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos; }

Row::Row(std::string_view line) {
  static constexpr int kMaxDepth = 500;  // as the library's own reader
  try {
    object_ = json::parse(line, [](int depth, json::parse_event_t, json&) {
      if (depth <= kMaxDepth) return true;
      throw InputError(fmt::format("JSON nested more than {} deep, expected at most that", kMaxDepth));
    });
  } catch (const json::exception& error) {
    std::string_view what = error.what();
    if (const auto bracket = what.find("] "); bracket != std::string_view::npos) what.remove_prefix(bracket + 2);
    throw InputError(fmt::format("not valid JSON ({}), expected one JSON object a line", what));
  }
  if (!object_.is_object()) throw InputError(fmt::format("{}, expected a JSON object", describe(object_)));
}

bool Row::has(const std::string& name) const { return object_.contains(name) && !object_.at(name).is_null(); }

const json& Row::get(const std::string& name, std::string_view expected) const {
  if (!has(name)) throw InputError(fmt::format("no field \"{}\", expected {}", name, expected));
  return object_.at(name);
}

void Row::fail(const std::string& name, std::string_view expected) const {
  throw InputError(fmt::format("field \"{}\" is {}, expected {}", name, describe(object_.at(name)), expected));
}

std::string Row::text(const std::string& name) const {
  constexpr std::string_view kExpected = "a string";
  const json& value = get(name, kExpected);
  if (!value.is_string()) fail(name, kExpected);
  return value.get<std::string>();
}

std::optional<bool> Row::find_bool(const std::string& name) const {
  if (!has(name)) return std::nullopt;
  if (!object_.at(name).is_boolean()) fail(name, "true or false");
  return object_.at(name).get<bool>();
}

std::vector<std::string> Row::texts(const std::string& name) const {
  constexpr std::string_view kExpected = "a list of strings";
  const json& value = get(name, kExpected);
  if (!value.is_array()) fail(name, kExpected);
  std::vector<std::string> texts;
  for (const json& item : value) {
    if (!item.is_string()) fail(name, kExpected);
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

TokenIds Row::ids(const std::string& name) const {
  constexpr std::string_view kExpected = "a list of token ids";
  const json& value = get(name, kExpected);
  if (!value.is_array()) fail(name, kExpected);
  TokenIds ids;
  for (const json& item : value) {
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() > std::numeric_limits<TokenId>::max()) {
      throw InputError(fmt::format("field \"{}\" holds {}, expected token ids", name, describe(item)));
    }
    ids.push_back(item.get<TokenId>());
  }
  return ids;
}

Messages Row::messages(const std::string& name) const {
  constexpr std::string_view kExpected = "a list of messages with role and content";
  const json& value = get(name, kExpected);
  if (!value.is_array() || value.empty()) fail(name, kExpected);
  Messages messages;
  for (const json& item : value) {
    try {
      messages.push_back(parse_message(item.dump(-1, ' ', false, json::error_handler_t::replace)));
    } catch (const InputError& error) {
      throw InputError(fmt::format("field \"{}\", message {}: {}", name, messages.size() + 1, error.what()));
    }
  }
  return messages;
}

jinja::Value::Fields Row::template_variables() const {
  const auto value_of = [](const json& value) {
    return jinja::Value::parse_json(value.dump(-1, ' ', false, json::error_handler_t::replace));
  };
  jinja::Value::Fields variables;
  for (const char* name : {"tools", "documents"}) {
    if (!has(name)) continue;
    if (!object_.at(name).is_array()) fail(name, "a list");
    variables.emplace_back(name, value_of(object_.at(name)));
  }
  if (has("chat_template_kwargs")) {
    const json& more = object_.at("chat_template_kwargs");
    if (!more.is_object()) fail("chat_template_kwargs", "an object");
    for (const auto& [name, value] : more.items()) variables.emplace_back(name, value_of(value));
  }
  return variables;
}

Messages Row::conversation(const std::string& name) const {
  const json& value = get(name, "a string or a list of messages");
  if (!value.is_string()) return messages(name);
  const std::string text = value.get<std::string>();
  if (is_blank(text)) fail(name, "a text that is not blank");
  return {{"user", text}};
}

void for_each_row(const std::string& path, const std::function<void(const Row&)>& each) {
  for_each_line(path, [&](std::string_view line) { each(Row(line)); });
}

Output::Output(const std::string& path) {
  if (!path.empty() && path != "-") file_ = std::make_unique<AtomicFile>(path);
}
Output::~Output() = default;

void Output::write(const nlohmann::ordered_json& row) {
  write_text(row.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void Output::write_text(const std::string& text) {
  if (file_) return file_->write(text);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw ResourceError(fmt::format("cannot write the standard output: {}", std::strerror(errno)));
  }
}

void Output::finish() {
  if (file_) file_->commit();
}

}  // namespace sao::cli
