// SPDX-License-Identifier: Apache-2.0
// Conversations of expected.json files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "sao/jinja/template.h"
#include "sao/text/chat.h"
#include "support/parity_report.h"

namespace sao::testing {

inline Messages messages_of(const nlohmann::ordered_json& list) {
  Messages messages;
  for (const auto& m : list) messages.push_back(parse_message(m.dump()));
  return messages;
}

// What is rendered, or the kind and the words of the error.
inline std::string text_or_error(const ChatTokenizer& chat, const Messages& messages, const RenderOptions& options) {
  try {
    return chat.render(messages, options);
  } catch (const jinja::TemplateError& error) {
    return error.kind() + ": " + error.message();
  } catch (const InputError& error) {
    return std::string("ValueError: ") + error.what();
  }
}

/// One more case of a comparison in which all must be equal.
inline void count(ParityResult& result, bool same, const std::string& name) {
  ++result.compared;
  if (same) return;
  result.worst += 1.0;
  result.worst_case = name;
}

}  // namespace sao::testing
