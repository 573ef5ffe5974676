// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "io/json.h"
#include "sao/base/error.h"
#include "sao/text/chat.h"
#include "text/chat_template.h"

namespace sao {
namespace {

using detail::OrderedJson;

[[noreturn]] void fail(std::string_view what, const OrderedJson& found, std::string_view expected) {
  throw InputError(fmt::format("{} is {}, expected {}", what, detail::describe_json(found), expected));
}

std::string text_of_parts(const OrderedJson& parts) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const OrderedJson& part = parts[i];
    const auto has_string = [&](const char* name) { return part.contains(name) && part[name].is_string(); };
    if (!part.is_object() || !has_string("type"))
      fail(fmt::format("content[{}]", i), part, "a part with a type, such as {\"type\": \"text\", \"text\": ...}");
    if (part["type"] != "text") continue;
    if (!has_string("text")) fail(fmt::format("content[{}]", i), part, "a text in its field \"text\"");
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

}  // namespace

detail::OrderedJson detail::parse_ordered_json(std::string_view text) {
  static constexpr int kMaxDepth = 200;  // as that of a template's values
  try {
    return OrderedJson::parse(text, [](int depth, OrderedJson::parse_event_t, OrderedJson&) {
      if (depth <= kMaxDepth) return true;
      throw InputError(fmt::format("JSON nested more than {} deep, expected at most that", kMaxDepth));
    });
  } catch (const OrderedJson::exception& error) {
    throw InputError(fmt::format("not valid JSON: {}, expected JSON", error.what()));
  }
}

Message parse_message(std::string_view json) {
  constexpr std::string_view kExpected = "an object with role and content";
  const OrderedJson object = detail::parse_ordered_json(json);
  if (!object.is_object()) throw InputError(fmt::format("{}, expected {}", detail::describe_json(object), kExpected));
  Message message;
  const auto role = object.find("role");
  if (role == object.end()) throw InputError("no role, expected role and content");
  if (!role->is_string()) fail("role", *role, "a string");
  message.role = role->get<std::string>();

  const auto content = object.find("content");
  const bool absent = content == object.end() || content->is_null();
  const std::size_t others = object.size() - 1 - (content == object.end() ? 0 : 1);
  if (absent) {
    if (others == 0) throw InputError("no content, expected role and content");
  } else if (content->is_string()) {
    message.content = content->get<std::string>();
  } else if (content->is_array()) {
    message.content = text_of_parts(*content);
  } else {
    fail("content", *content, "a string or a list of parts");
  }
  if (others > 0 || !content->is_string())
    message.json = object.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  return message;
}

}  // namespace sao
