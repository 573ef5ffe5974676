// SPDX-License-Identifier: Apache-2.0
#include "data/message_json.h"

#include <fmt/format.h>

namespace sao::detail {

OrderedJson messages_to_json(const Messages& messages) {
  OrderedJson list = OrderedJson::array();
  for (const Message& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  return list;
}

Messages messages_from_json(const Json& value, std::string_view where) {
  if (!value.is_array() || value.empty()) {
    throw InputError(fmt::format("{} is {}, expected a list of messages", where, describe_json(value)));
  }
  Messages messages;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string place = fmt::format("{}[{}]", where, i);
    if (!value[i].is_object()) {
      throw InputError(
          fmt::format("{} is {}, expected an object with role and content", place, describe_json(value[i])));
    }
    Message message{.role = get_field<std::string>(value[i], "role", place),
                    .content = get_field<std::string>(value[i], "content", place)};
    if (message.role == "model") message.role = "assistant";  // Gemma's own word for it
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      throw_field_error(place, "role", value[i]["role"], "system, user or assistant");
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace sao::detail
