// SPDX-License-Identifier: Apache-2.0
#include "data/message_json.h"

#include <fmt/format.h>

#include <utility>

namespace sao::detail {

OrderedJson messages_to_json(const Messages& messages) {
  OrderedJson list = OrderedJson::array();
  for (const Message& message : messages) {
    if (message.json.empty()) {
      list.push_back({{"role", message.role}, {"content", message.content}});
      continue;
    }
    OrderedJson whole = OrderedJson::parse(message.json, nullptr, /*allow_exceptions=*/false);
    if (!whole.is_object()) throw InputError("Message::json is no JSON object, expected one");
    list.push_back(std::move(whole));
  }
  return list;
}

Messages messages_from_json(const Json& value, std::string_view where) {
  if (!value.is_array() || value.empty()) {
    throw InputError(fmt::format("{} is {}, expected a list of messages", where, describe_json(value)));
  }
  Messages messages;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string place = fmt::format("{}[{}]", where, i);
    Json item = value[i];
    if (item.is_object() && item.contains("role") && item["role"] == "model") {
      item["role"] = "assistant";  // Gemma's own word for it
    }
    Message message;
    try {
      message = parse_message(item.dump(-1, ' ', false, Json::error_handler_t::replace));
    } catch (const InputError& error) {
      throw InputError(fmt::format("{}: {}", place, error.what()));
    }
    const auto& role = message.role;
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      throw_field_error(place, "role", value[i]["role"], "system, user, assistant or tool");
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace sao::detail
