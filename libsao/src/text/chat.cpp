// SPDX-License-Identifier: Apache-2.0
#include "sao/text/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/utf8.h"
#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "text/added_tokens.h"
#include "text/json_node.h"

namespace sao {
namespace {

using detail::Json;
using detail::JsonNode;

enum class Format { kUnknown, kGemma, kLlama3 };

struct Template {
  std::string text;
  std::string file;  // where it stands, for error messages
};

// The template of a folder: chat_template.jinja, else the field of tokenizer_config.json, which may be a list of
// named ones.
std::optional<Template> find_template(const std::filesystem::path& folder) {
  if (const auto file = folder / "chat_template.jinja"; detail::exists(file))
    return Template{read_file(file), file.string()};
  const auto file = folder / "tokenizer_config.json";
  if (!detail::exists(file)) return std::nullopt;
  const Json json = detail::read_json_object(file);
  const auto node = JsonNode(json, file.string()).find("chat_template");
  if (!node) return std::nullopt;
  if (!node->value().is_array()) return Template{node->string(), node->where()};
  for (std::size_t i = 0; i < node->array_size(); ++i)
    if ((*node)[i].at("name", "a name").string() == "default")
      return Template{(*node)[i].at("template", "a template").string(), node->where()};
  return std::nullopt;
}

// Whether `text` is a template that the format's hard-coded rendering agrees with: it has all of `marks` and none
// of the `variations` that render something else.
bool has_all_and_none(std::string_view text, std::initializer_list<std::string_view> marks,
                      std::initializer_list<std::string_view> variations) {
  const auto in_text = [&](std::string_view mark) { return text.find(mark) != text.npos; };
  return std::ranges::all_of(marks, in_text) && std::ranges::none_of(variations, in_text);
}

bool is_gemma_template(std::string_view text) {
  return has_all_and_none(text,
                          {"<start_of_turn>", "<end_of_turn>", "add_generation_prompt", "System role not supported",
                           "Conversation roles must alternate"},
                          {"tools", "first_user_prefix"});
}

bool is_llama3_template(std::string_view text) {
  // Llama 3.1 and later put a date and tools into the system message.
  return has_all_and_none(text,
                          {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "add_generation_prompt", "trim"},
                          {"tools", "date_string", "strftime_now", "Cutting Knowledge Date"});
}

void collect_eos(const std::filesystem::path& file, TokenIds& ids) {
  if (!detail::exists(file)) return;
  const Json json = detail::read_json_object(file);
  const auto node = JsonNode(json, file.string()).find("eos_token_id");
  if (!node) return;
  const auto add = [&](const JsonNode& id) { ids.push_back(detail::check_token_id(id.integer(), id.where())); };
  if (node->value().is_array()) {
    for (std::size_t i = 0; i < node->array_size(); ++i) add((*node)[i]);
  } else {
    add(*node);
  }
}

}  // namespace

struct ChatTokenizer::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  Format format = Format::kUnknown;
  std::string unknown_format;  // the error of render where the format is unknown
  std::string bos;             // as text
  TokenIds stop_ids;
  std::optional<TokenId> turn_end;
  std::string folder;

  std::string header(std::string_view role) const {
    if (format == Format::kLlama3) return fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n", role);
    return fmt::format("<start_of_turn>{}\n", role == "assistant" ? "model" : role);
  }
};

ChatTokenizer ChatTokenizer::load(const std::filesystem::path& folder) {
  auto impl = std::make_shared<Impl>();
  impl->folder = folder.string();
  impl->tokenizer = Tokenizer::load(folder);
  const Tokenizer& tokenizer = *impl->tokenizer;
  const auto has = [&](std::string_view token) { return tokenizer.find_token(token).has_value(); };
  const bool gemma_tokens = has("<start_of_turn>") && has("<end_of_turn>");
  const bool llama3_tokens = has("<|start_header_id|>") && has("<|end_header_id|>") && has("<|eot_id|>");

  const auto chat_template = find_template(folder);
  if (gemma_tokens && (!chat_template || is_gemma_template(chat_template->text))) {
    impl->format = Format::kGemma;
    impl->turn_end = tokenizer.find_token("<end_of_turn>");
  } else if (llama3_tokens && (!chat_template || is_llama3_template(chat_template->text))) {
    impl->format = Format::kLlama3;
    impl->turn_end = tokenizer.find_token("<|eot_id|>");
  } else if (chat_template) {
    impl->unknown_format = fmt::format(
        "{}: unknown chat format, expected Gemma's or Llama-3's template (and its turn "
        "tokens in the vocabulary)",
        chat_template->file);
  } else {
    impl->unknown_format = fmt::format(
        "{}: unknown chat format: no chat_template and no turn tokens in the vocabulary, "
        "expected Gemma's (<start_of_turn>) or Llama-3's (<|start_header_id|>)",
        (folder / "tokenizer_config.json").string());
  }

  if (impl->format != Format::kUnknown) {
    const std::string_view bos = impl->format == Format::kGemma ? "<bos>" : "<|begin_of_text|>";
    // The template writes bos_token; under another name than the format's own it is found by its id.
    if (tokenizer.bos_id())
      impl->bos = tokenizer.find_token(bos) == tokenizer.bos_id()
                      ? std::string(bos)
                      : tokenizer.decode(TokenIds{*tokenizer.bos_id()}, /*skip_special=*/false);
  }
  collect_eos(folder / "generation_config.json", impl->stop_ids);
  collect_eos(folder / "config.json", impl->stop_ids);
  if (tokenizer.eos_id()) impl->stop_ids.push_back(*tokenizer.eos_id());
  if (impl->turn_end) impl->stop_ids.push_back(*impl->turn_end);
  std::ranges::sort(impl->stop_ids);
  impl->stop_ids.erase(std::ranges::unique(impl->stop_ids).begin(), impl->stop_ids.end());
  if (!impl->turn_end) impl->turn_end = tokenizer.eos_id();

  ChatTokenizer chat;
  chat.impl_ = std::move(impl);
  return chat;
}

const Tokenizer& ChatTokenizer::tokenizer() const { return *impl_->tokenizer; }
const TokenIds& ChatTokenizer::stop_ids() const { return impl_->stop_ids; }

TokenId ChatTokenizer::turn_end_id() const {
  if (!impl_->turn_end)
    throw InputError(
        fmt::format("{}: no token ends a turn, expected an eos_token in tokenizer_config.json", impl_->folder));
  return *impl_->turn_end;
}

std::string ChatTokenizer::render(const Messages& messages, const RenderOptions& options) const {
  const Impl& impl = *impl_;
  if (impl.format == Format::kUnknown) throw InputError(impl.unknown_format);
  if (messages.empty()) throw InputError("messages: none, expected at least one");
  if (options.add_generation_prompt && options.continue_final_message)
    throw InputError(
        "messages: add_generation_prompt and continue_final_message together, expected at most one of them");
  if (impl.format == Format::kGemma) {
    if (messages[0].role == "system")
      throw InputError(
          "messages[0]: System role not supported by the chat template, expected a user message; put the "
          "instruction into it");
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if ((messages[i].role == "user") != (i % 2 == 0))
        throw InputError(
            fmt::format("messages[{}]: Conversation roles must alternate user/assistant/user/assistant/..., "
                        "found \"{}\", expected \"{}\"",
                        i, messages[i].role, i % 2 == 0 ? "user" : "assistant"));
    }
  }
  const std::string_view end = impl.format == Format::kGemma ? "<end_of_turn>\n" : "<|eot_id|>";
  std::string text = impl.bos;
  for (const Message& message : messages) {
    text += impl.header(message.role);
    if (options.continue_final_message && &message == &messages.back()) {
      text += detail::strip_left(message.content);
      // As transformers does: what precedes an empty answer loses its line break too.
      text.resize(detail::strip_right(text).size());
    } else {
      text += detail::strip(message.content);
      text += end;
    }
  }
  if (options.add_generation_prompt) text += impl.header("assistant");
  return text;
}

TokenIds ChatTokenizer::encode_chat(const Messages& messages, const RenderOptions& options) const {
  TokenIds ids = impl_->tokenizer->encode(render(messages, options), /*parse_special=*/true);
  if (const auto bos = impl_->tokenizer->bos_id()) {
    const auto first = std::ranges::find_if(ids, [&](TokenId id) { return id != *bos; });
    ids.erase(ids.begin(), first);
    ids.insert(ids.begin(), *bos);
  }
  return ids;
}

TokenIds ChatTokenizer::encode_prompt(std::string_view user_text) const {
  return encode_chat({{.role = "user", .content = std::string(user_text)}}, {.add_generation_prompt = true});
}

TokenIds ChatTokenizer::encode_text(std::string_view text, bool special_tokens) const {
  TokenIds ids = impl_->tokenizer->encode(text, /*parse_special=*/true);
  const auto bos = impl_->tokenizer->bos_id();
  if (special_tokens && bos && impl_->tokenizer->adds_bos() && (ids.empty() || ids.front() != *bos))
    ids.insert(ids.begin(), *bos);
  return ids;
}

std::string ChatTokenizer::decode(TokenSpan ids, bool skip_special) const {
  return impl_->tokenizer->decode(ids, skip_special);
}

std::string ChatTokenizer::response_text(TokenSpan ids) const {
  while (!ids.empty() && std::ranges::binary_search(impl_->stop_ids, ids.back())) ids = ids.first(ids.size() - 1);
  return std::string(detail::strip(impl_->tokenizer->decode(ids, /*skip_special=*/true)));
}

}  // namespace sao
