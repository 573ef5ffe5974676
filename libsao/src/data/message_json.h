// SPDX-License-Identifier: Apache-2.0
// Chat messages in JSON: [{"role": "user", "content": "..."}].
#pragma once

#include <string_view>

#include "io/json.h"
#include "sao/text/chat.h"

namespace sao::detail {

OrderedJson messages_to_json(const Messages& messages);

/// Throws InputError naming `where` and what is wrong: no list, an empty list, a role that is unknown, what
/// parse_message refuses.
Messages messages_from_json(const Json& value, std::string_view where);

}  // namespace sao::detail
