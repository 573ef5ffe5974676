// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "sao/base/error.h"

namespace sao::detail {
namespace {

// Above any vocabulary in use; keeps a lying id from asking for gigabytes.
constexpr std::int64_t kMaxTokenId = (1 << 21) - 1;

// The Unicode White_Space property, the \s of the reference.
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
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
  nodes_.emplace_back();
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    starts_[static_cast<unsigned char>(tokens_[i].content[0])] = true;
    std::uint32_t at = 0;
    for (const char c : tokens_[i].content) {
      const auto byte = static_cast<unsigned char>(c);
      const auto place = std::lower_bound(nodes_[at].children.begin(), nodes_[at].children.end(), byte,
                                          [](const auto& child, unsigned char b) { return child.first < b; });
      if (place != nodes_[at].children.end() && place->first == byte) {
        at = place->second;
      } else {
        const auto next = static_cast<std::uint32_t>(nodes_.size());
        nodes_[at].children.insert(place, {byte, next});
        nodes_.emplace_back();
        at = next;
      }
    }
    nodes_[at].token = static_cast<std::int32_t>(i);
  }
  if (std::ranges::any_of(tokens_, &AddedToken::single_word)) {
    // \w of the reference: Alphabetic, marks, decimal digits, connectors, joiners.
    const std::string word = R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}])";
    word_.emplace(word, "added tokens");
  }
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text) const {
  const AddedToken* found = nullptr;
  std::uint32_t at = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const auto& children = nodes_[at].children;
    const auto place = std::lower_bound(children.begin(), children.end(), byte,
                                        [](const auto& child, unsigned char b) { return child.first < b; });
    if (place == children.end() || place->first != byte) break;
    at = place->second;
    if (nodes_[at].token >= 0) found = &tokens_[static_cast<std::size_t>(nodes_[at].token)];
  }
  return found;
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
      const AddedToken* token = longest_at(text.substr(i));
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
        // Bytes that are no character are no part of a word, and PCRE2 must not see them.
        const std::string_view before = text.substr(last, begin - last), after = text.substr(end);
        if (character_length(before) == before.size() && word_->found_in(before)) continue;
        if (word_->found_in(after.substr(0, character_length(after)))) continue;
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
