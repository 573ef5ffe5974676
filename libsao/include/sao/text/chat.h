// SPDX-License-Identifier: Apache-2.0
// Conversations to tokens, in the format of the model at hand, with exactly one BOS; and the ids that end a turn.
//   auto text = sao::ChatTokenizer::load("gemma-2-2b-it");
//   sao::TokenIds ids = text.encode_chat({{"user", "Hello"}}, {.add_generation_prompt = true});
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"
#include "sao/jinja/value.h"
#include "sao/text/tokenizer.h"

namespace sao {

struct Message {
  std::string role = {};     ///< "system", "user", "assistant", ...: the chat template decides which there are
  std::string content = {};  ///< as text
  /// The whole message as a JSON object where it is more than a role and a text (`name`, `tool_calls`, a content in
  /// parts), else empty. Where it stands, the template sees it and not the two fields above. See parse_message.
  std::string json = {};

  bool operator==(const Message&) const = default;
};
using Messages = std::vector<Message>;

/// A message of a JSON row. `content` is a string; or a list of parts, `{"type": "text", "text": s}` or others, and
/// Message::content then the texts one after the other; or absent or null, but only beside further fields, and then "".
/// All fields reach the template. Throws InputError: no object, no role, another content.
Message parse_message(std::string_view json);

struct RenderOptions {
  bool add_generation_prompt = false;   ///< end with the header of the assistant's turn
  bool continue_final_message = false;  ///< leave the last message open, so that generation continues it
  /// More variables for the template, such as `enable_thinking`; `tools` and `documents` too. Of one name these go
  /// first, then those of ChatOptions, then the special tokens.
  jinja::Value::Fields variables = {};
};

/// What is the same for all conversations.
struct ChatOptions {
  /// The name of one of the folder's templates, or else a file that holds one. Empty: the one named "default", or
  /// "tool_use", if there is such a one, where `tools` are given.
  std::string chat_template = {};
  jinja::Value::Fields variables = {};
  /// What templates that ask for the date are told, in local time; nothing is the present.
  std::optional<std::chrono::system_clock::time_point> now = {};
};

/// A tokenizer, a chat format and the stop ids of one model folder. A value; copies share. Safe to use from many
/// threads.
class ChatTokenizer {
 public:
  /// Reads the tokenizer and the chat template, a Jinja template, from where transformers 5.17 takes it:
  /// chat_template.jinja and `additional_chat_templates/NAME.jinja`, else `chat_template` of tokenizer_config.json, a
  /// string or a list of named ones. A folder without any, but with the turn tokens of Gemma, Llama-3 or ChatML in its
  /// vocabulary, gets that format's usual template in our own words.
  /// Throws InputError. A folder without a template, or with a broken one, loads, but render throws.
  static ChatTokenizer load(const std::filesystem::path& folder, const ChatOptions& options = {});

  const Tokenizer& tokenizer() const;

  /// The conversation as text: what transformers' apply_chat_template renders, with the same variables: `messages`,
  /// `add_generation_prompt`, `tools` and `documents` (none), and every special token that tokenizer_config.json names
  /// (`bos_token`, ...). A message alone, an assistant's too, is rendered as the template takes it. Messages with a
  /// content in parts go to templates that read parts as they are, to others with the parts' texts in one string.
  /// Throws InputError: no messages, both options at once, a last message that cannot be continued, parts that are no
  /// text for a template that reads strings; as jinja::TemplateError what the template raises, with file and line.
  std::string render(const Messages& messages, const RenderOptions& options = {}) const;

  /// render, then encode. Where the tokenizer adds a BOS or the template writes one, the ids start with exactly one.
  TokenIds encode_chat(const Messages& messages, const RenderOptions& options = {}) const;

  /// One user turn with the assistant's header open: what the model answers to.
  TokenIds encode_prompt(std::string_view user_text) const;

  /// Plain text; `special_tokens` puts the BOS in front where the tokenizer does so (never two).
  TokenIds encode_text(std::string_view text, bool special_tokens = true) const;

  std::string decode(TokenSpan ids, bool skip_special = true) const;

  /// The text of a sampled response: stop ids at the end and special tokens removed, blanks at both ends trimmed.
  std::string response_text(TokenSpan ids) const;

  /// Any of these ends a response: `eos_token_id` of generation_config.json and config.json, the tokenizer's eos and
  /// the turn end. Sorted, without duplicates.
  const TokenIds& stop_ids() const;
  /// The id that ends an assistant turn in training data: the special token that the template writes after what the
  /// assistant says (`<end_of_turn>`, `<|eot_id|>`, `</s>`), else eos. Throws InputError where there is neither.
  TokenId turn_end_id() const;
  /// The special tokens that the template writes around what is said, the BOS among them. Sorted, without duplicates.
  const TokenIds& format_ids() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace sao
