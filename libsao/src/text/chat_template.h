// SPDX-License-Identifier: Apache-2.0
// The chat template of a model folder, and conversations rendered by it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "sao/jinja/template.h"
#include "sao/text/chat.h"

namespace sao::detail {

struct ChatTemplateSource {
  std::string name = {};  ///< "default", "tool_use", ...
  std::string text = {};
  std::string where = {};  ///< where it stands, for error messages
};

/// The templates of a folder. Throws InputError naming file and field.
/// Follows: transformers 5.17, tokenization_utils_base.py, PreTrainedTokenizerBase._from_pretrained: files go before
/// the field of tokenizer_config.json.
std::vector<ChatTemplateSource> read_chat_templates(const std::filesystem::path& folder);

/// For a folder without a template: that of Gemma, Llama-3 or ChatML where their turn tokens are in the vocabulary.
std::optional<ChatTemplateSource> built_in_chat_template(const Tokenizer& tokenizer);

/// `bos_token`, `eos_token`, ... as the files name them; bos and eos of a tokenizer whose files do not mention them.
/// Follows: PreTrainedTokenizerBase.special_tokens_map, of transformers 5.17.
jinja::Value::Fields read_special_tokens(const std::filesystem::path& folder, const Tokenizer& tokenizer);

/// JSON with its fields in their order. Throws InputError: not JSON, or nested more than 200 deep.
OrderedJson parse_ordered_json(std::string_view text);

/// A template with all that is the same for every conversation.
class ChatTemplate {
 public:
  /// A source that does not parse is an error of render.
  ChatTemplate(ChatTemplateSource source, jinja::Value::Fields variables, jinja::Settings settings);

  const std::string& name() const { return source_.name; }
  /// As ChatTokenizer::render.
  std::string render(const Messages& messages, const RenderOptions& options) const;

 private:
  jinja::Value message_value(const Message& message, std::size_t index) const;
  jinja::Value open_message_value(const Message& message, std::size_t index, std::string& said) const;
  std::string render_values(std::vector<jinja::Value> messages, const RenderOptions& options) const;
  bool reads_parts() const;

  ChatTemplateSource source_;
  std::optional<jinja::Template> parsed_;
  jinja::Value::Fields variables_;
  jinja::Settings settings_;
  bool reads_parts_ = false;
};

}  // namespace sao::detail
