// SPDX-License-Identifier: Apache-2.0
// Conversations to tokens, in the format of the model at hand, with exactly one BOS; and the ids that end a turn.
//   auto text = sao::ChatTokenizer::load("gemma-2-2b-it");
//   sao::TokenIds ids = text.encode_chat({{"user", "Hello"}}, {.add_generation_prompt = true});
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"
#include "sao/text/tokenizer.h"

namespace sao {

struct Message {
  std::string role = {};  ///< "system", "user" or "assistant"
  std::string content = {};

  bool operator==(const Message&) const = default;
};
using Messages = std::vector<Message>;

struct RenderOptions {
  bool add_generation_prompt = false;   ///< end with the header of the assistant's turn
  bool continue_final_message = false;  ///< leave the last message open, so that generation continues it
};

/// A tokenizer, a chat format and the stop ids of one model folder. A value; copies share.
class ChatTokenizer {
 public:
  /// Reads the tokenizer and recognises the chat format: Gemma (`<start_of_turn>`) or Llama-3
  /// (`<|start_header_id|>`). Stop ids: generation_config.json / config.json `eos_token_id`, the tokenizer's eos
  /// and the format's turn end. Throws InputError; a folder without a known chat format loads, but render throws.
  static ChatTokenizer load(const std::filesystem::path& folder);

  const Tokenizer& tokenizer() const;

  /// The conversation as text. Throws InputError as the model's own template would (roles that do not
  /// alternate, a system message where there is none, both options at once).
  std::string render(const Messages& messages, const RenderOptions& options = {}) const;

  /// render, then encode; the result starts with exactly one BOS.
  TokenIds encode_chat(const Messages& messages, const RenderOptions& options = {}) const;

  /// One user turn with the assistant's header open: what the model answers to.
  TokenIds encode_prompt(std::string_view user_text) const;

  /// Plain text; `special_tokens` puts the BOS in front where the tokenizer does so (never two).
  TokenIds encode_text(std::string_view text, bool special_tokens = true) const;

  std::string decode(TokenSpan ids, bool skip_special = true) const;

  /// The text of a sampled response: stop ids at the end and special tokens removed, blanks at both ends trimmed.
  std::string response_text(TokenSpan ids) const;

  /// Any of these ends a response. Sorted, without duplicates.
  const TokenIds& stop_ids() const;
  /// The id that ends an assistant turn in training data (`<end_of_turn>`, `<|eot_id|>`), else eos.
  TokenId turn_end_id() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace sao
