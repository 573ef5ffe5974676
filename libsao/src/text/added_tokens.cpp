// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "text/unicode.h"

namespace sao::detail {
namespace {

// Above any vocabulary in use; keeps a lying id from asking for gigabytes.
constexpr std::int64_t kMaxTokenId = (1 << 21) - 1;

bool is_white_space(char32_t c) { return (CharacterTable::get().classes(c) & kSpace) != 0; }

// Whether the text is one valid character, and of words.
bool is_of_words(std::string_view character) {
  return !character.empty() && character_length(character) == character.size() &&
         (CharacterTable::get().classes(code_point(character)) & kRustWord);
}

std::size_t white_space_at_start(std::string_view text) {
  std::size_t length = 0;
  while (const std::size_t n = character_length(text.substr(length))) {
    if (!is_white_space(code_point(text.substr(length)))) break;
    length += n;
  }
  return length;
}

std::size_t white_space_at_end(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    const std::string_view character = text.substr(begin, end - begin);
    if (character_length(character) != character.size() || !is_white_space(code_point(character))) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace

TokenId check_token_id(std::int64_t id, const std::string& where) {
  if (id < 0 || id > kMaxTokenId)
    throw InputError(fmt::format("{}: token id {}, expected one in 0..{}", where, id, kMaxTokenId));
  return static_cast<TokenId>(id);
}

AddedToken parse_added_token(const JsonNode& node, TokenId id) {
  AddedToken token{.content = node.at("content", "the token's text").string(),
                   .id = id,
                   .single_word = node.boolean_or("single_word", false),
                   .lstrip = node.boolean_or("lstrip", false),
                   .rstrip = node.boolean_or("rstrip", false),
                   .special = node.boolean_or("special", false)};
  token.normalized = node.boolean_or("normalized", !token.special);
  return token;
}

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    starts_[static_cast<unsigned char>(tokens_[i].content[0])] = true;
    trie_.insert(tokens_[i].content, static_cast<std::int32_t>(i));
  }
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special,
                              const std::function<void(std::string_view, const AddedToken*)>& each) const {
  std::size_t plain = 0;  // where the text not yet handed out begins
  if (!tokens_.empty()) {
    std::size_t i = 0;
    while (i < text.size()) {
      if (!starts_[static_cast<unsigned char>(text[i])]) {
        ++i;
        continue;
      }
      const AddedToken* token = nullptr;
      trie_.for_each_prefix(text.substr(i), [&](std::size_t, std::int32_t t) {
        token = &tokens_[static_cast<std::size_t>(t)];  // the longest is the last
      });
      if (!token) {
        ++i;
        continue;
      }
      std::size_t begin = i;
      std::size_t end = i + token->content.size();
      i = end;  // what is turned down below is stepped over, as in the reference
      if (token->special && !parse_special) continue;
      if (token->single_word) {
        std::size_t last = begin;
        while (last > 0 && (static_cast<unsigned char>(text[--last]) & 0xC0) == 0x80) {
        }
        const std::string_view before = text.substr(last, begin - last), after = text.substr(end);
        if (is_of_words(before) || is_of_words(after.substr(0, character_length(after)))) continue;
      }
      if (token->lstrip) begin = std::max(plain, begin - white_space_at_end(text.substr(0, begin)));
      if (token->rstrip) end += white_space_at_start(text.substr(end));
      if (begin > plain) each(text.substr(plain, begin - plain), nullptr);
      each(text.substr(begin, end - begin), token);
      plain = end;
    }
  }
  if (plain < text.size()) each(text.substr(plain), nullptr);
}

}  // namespace sao::detail
