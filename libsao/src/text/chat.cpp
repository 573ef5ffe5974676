// SPDX-License-Identifier: Apache-2.0
#include "sao/text/chat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "base/utf8.h"
#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "text/added_tokens.h"
#include "text/chat_template.h"
#include "text/json_node.h"

namespace sao {
namespace {

using detail::Json;
using detail::JsonNode;

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

void sort_unique(TokenIds& ids) {
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

// Whether a token stands for itself in a text and not for a part of it. Gemma's turn tokens are user-defined pieces of
// its SentencePiece model, which are not special; so what looks like <...> or [...] counts too.
bool is_mark(const Tokenizer& tokenizer, TokenId id) {
  const std::string text = tokenizer.decode(TokenIds{id}, /*skip_special=*/false);
  if (text.empty()) return false;
  if (tokenizer.decode(TokenIds{id}, /*skip_special=*/true).empty()) return true;
  return text.size() > 2 &&
         ((text.front() == '<' && text.back() == '>') || (text.front() == '[' && text.back() == ']'));
}

// Words that stand for what is said where only what the template writes around it matters.
constexpr const char* kQuestion = "PROBEQUESTION";
constexpr const char* kAnswer = "PROBEANSWER";
constexpr std::size_t kMaxProbe = 1 << 20;  // a template from strangers must not make the loading long

// A conversation that ends with an answer, in which templates with other rules find what they ask for. Nothing where
// none does.
std::optional<std::string> render_probe(const detail::ChatTemplate& chat_template, bool with_next_turn) {
  const Message question{.role = "user", .content = kQuestion};
  Messages messages = {question, {.role = "assistant", .content = kAnswer}};
  if (with_next_turn) messages.push_back(question);
  for (const bool system : {false, true}) {
    if (system) messages.insert(messages.begin(), {.role = "system", .content = kQuestion});
    try {
      std::string text = chat_template.render(messages, {.add_generation_prompt = with_next_turn});
      if (text.size() > kMaxProbe) return std::nullopt;
      return text;
    } catch (const jinja::TemplateError&) {
    }
  }
  return std::nullopt;
}

// The special token after the answer; blanks may stand between them.
std::optional<TokenId> token_after_answer(const Tokenizer& tokenizer, const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  const std::size_t place = text->rfind(kAnswer);
  if (place == text->npos) return std::nullopt;
  const std::string_view rest =
      detail::strip_left(std::string_view(*text).substr(place + std::string_view(kAnswer).size()));
  for (const TokenId id : tokenizer.encode(rest)) {
    if (is_mark(tokenizer, id)) return id;
    if (!detail::strip(tokenizer.decode(TokenIds{id})).empty()) break;
  }
  return std::nullopt;
}

}  // namespace

struct ChatTokenizer::Impl {
  std::string folder;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<detail::ChatTemplate> chat_template;
  std::optional<detail::ChatTemplate> with_tools;  // used in its place where tools are given
  std::string no_template;                         // the error of render where there is none
  TokenIds stop_ids;
  TokenIds format_ids;
  std::optional<TokenId> turn_end;

  void choose_template(std::vector<detail::ChatTemplateSource> sources, const ChatOptions& options);
  void find_marks();  // after the stop ids of the files
  const detail::ChatTemplate& template_for(const RenderOptions& options) const;
};

void ChatTokenizer::Impl::choose_template(std::vector<detail::ChatTemplateSource> sources, const ChatOptions& options) {
  jinja::Value::Fields variables = detail::read_special_tokens(folder, *tokenizer);
  variables.insert(variables.end(), options.variables.begin(), options.variables.end());
  const auto take = [&](detail::ChatTemplateSource source) {
    return detail::ChatTemplate(std::move(source), variables, {.now = options.now});
  };
  const auto find = [&](std::string_view name) -> std::optional<detail::ChatTemplate> {
    const auto found = std::ranges::find(sources, name, &detail::ChatTemplateSource::name);
    if (found == sources.end()) return std::nullopt;
    return take(*found);
  };
  std::vector<std::string> names;
  for (const auto& source : sources) names.push_back(source.name);
  if (const std::string& asked = options.chat_template; !asked.empty()) {
    chat_template = find(asked);
    if (chat_template) return;
    if (!detail::exists(asked))
      throw InputError(fmt::format("{}: no chat template \"{}\" and no such file, expected {}a file", folder, asked,
                                   names.empty() ? "" : fmt::format("one of {} or ", fmt::join(names, ", "))));
    chat_template = take({asked, read_file(asked), asked});
  } else if (!sources.empty()) {
    chat_template = find("default");
    with_tools = find("tool_use");
    if (!chat_template)
      no_template = fmt::format("{}: the chat templates {} and none of them \"default\", expected the choice of one",
                                folder, fmt::join(names, ", "));
  } else if (auto built_in = detail::built_in_chat_template(*tokenizer)) {
    chat_template = take(*std::move(built_in));
  } else {
    no_template = fmt::format(
        "{}: no chat template, expected chat_template.jinja, a chat_template in tokenizer_config.json, or the turn "
        "tokens "
        "of Gemma, Llama-3 or ChatML in the vocabulary; write the model's template, in Jinja, to {}",
        folder, (std::filesystem::path(folder) / "chat_template.jinja").string());
  }
}

void ChatTokenizer::Impl::find_marks() {
  if (tokenizer->bos_id()) format_ids.push_back(*tokenizer->bos_id());
  if (chat_template) {
    const auto conversation = render_probe(*chat_template, /*with_next_turn=*/true);
    if (conversation) {
      for (const TokenId id : tokenizer->encode(*conversation))
        if (is_mark(*tokenizer, id)) format_ids.push_back(id);
    }
    turn_end = token_after_answer(*tokenizer, render_probe(*chat_template, /*with_next_turn=*/false));
    if (!turn_end) {
      // Some templates end a turn only where another one follows; it is no header if the model's files say that it
      // ends.
      const auto end = token_after_answer(*tokenizer, conversation);
      if (end && std::ranges::find(stop_ids, *end) != stop_ids.end()) turn_end = end;
    }
  }
  if (!turn_end) turn_end = tokenizer->eos_id();
  if (turn_end) {
    format_ids.push_back(*turn_end);
    stop_ids.push_back(*turn_end);
  }
  sort_unique(format_ids);
  sort_unique(stop_ids);
}

const detail::ChatTemplate& ChatTokenizer::Impl::template_for(const RenderOptions& options) const {
  const bool tools = std::ranges::any_of(options.variables, [](const auto& variable) {
    return variable.first == "tools" && !std::holds_alternative<std::monostate>(variable.second.data());
  });
  if (tools && with_tools) return *with_tools;
  if (!chat_template) throw InputError(no_template);
  return *chat_template;
}

ChatTokenizer ChatTokenizer::load(const std::filesystem::path& folder, const ChatOptions& options) {
  auto impl = std::make_shared<Impl>();
  impl->folder = folder.string();
  impl->tokenizer = Tokenizer::load(folder);
  impl->choose_template(detail::read_chat_templates(folder), options);
  collect_eos(folder / "generation_config.json", impl->stop_ids);
  collect_eos(folder / "config.json", impl->stop_ids);
  if (const auto eos = impl->tokenizer->eos_id()) impl->stop_ids.push_back(*eos);
  impl->find_marks();
  ChatTokenizer chat;
  chat.impl_ = std::move(impl);
  return chat;
}

const Tokenizer& ChatTokenizer::tokenizer() const { return *impl_->tokenizer; }
const TokenIds& ChatTokenizer::stop_ids() const { return impl_->stop_ids; }
const TokenIds& ChatTokenizer::format_ids() const { return impl_->format_ids; }

TokenId ChatTokenizer::turn_end_id() const {
  if (!impl_->turn_end)
    throw InputError(
        fmt::format("{}: no token ends a turn, expected an eos_token in tokenizer_config.json", impl_->folder));
  return *impl_->turn_end;
}

std::string ChatTokenizer::render(const Messages& messages, const RenderOptions& options) const {
  return impl_->template_for(options).render(messages, options);
}

TokenIds ChatTokenizer::encode_chat(const Messages& messages, const RenderOptions& options) const {
  const Tokenizer& tokenizer = *impl_->tokenizer;
  TokenIds ids = tokenizer.encode(render(messages, options), /*parse_special=*/true);
  if (const auto bos = tokenizer.bos_id()) {
    const auto first = std::ranges::find_if(ids, [&](TokenId id) { return id != *bos; });
    const bool written = first != ids.begin();
    ids.erase(ids.begin(), first);
    if (written || tokenizer.adds_bos()) ids.insert(ids.begin(), *bos);
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
