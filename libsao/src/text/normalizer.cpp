// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <string_view>
#include <utility>
#include <vector>

#include "base/utf8.h"
#include "text/byte_alphabet.h"
#include "text/pattern.h"
#include "text/unicode.h"

namespace sao::detail {
namespace {

class Replace final : public Normalizer {
 public:
  explicit Replace(const JsonNode& node)
      : pattern_(node.at("pattern", "a pattern")), content_(node.at("content", "a string").string()) {}
  std::string normalize(std::string text, bool& at_start) const override {
    // The reference takes what replaces some characters to stand for the last one of them.
    pattern_.for_first_match(text, [&](const Regex::Match& match) {
      if (match.begin == 0 && (content_.empty() || read_character(text).length < match.end)) at_start = false;
    });
    return pattern_.replace_all(text, content_);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(const JsonNode& node) : prefix_(node.at("prepend", "a string").string()) {}
  std::string normalize(std::string text, bool&) const override { return text.empty() ? text : prefix_ + text; }

 private:
  std::string prefix_;
};

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(NormalizationForm form) : form_(form) {}
  std::string normalize(std::string text, bool&) const override { return unicode_normalized(std::move(text), form_); }

 private:
  NormalizationForm form_;
};

// A text with every character c replaced by what change(c, out) appends.
template <class Change>
class CharacterChange final : public Normalizer {
 public:
  explicit CharacterChange(Change change) : change_(std::move(change)) {}
  std::string normalize(std::string text, bool& at_start) const override {
    std::string out;
    out.reserve(text.size());
    for (std::string_view rest = text; !rest.empty();) {
      const Character c = read_character(rest);
      rest.remove_prefix(c.length);
      change_(c.code, out);
      if (out.empty()) at_start = false;
    }
    return out;
  }

 private:
  Change change_;
};
template <class Change>
std::unique_ptr<const Normalizer> change_characters(Change change) {
  return std::make_unique<CharacterChange<Change>>(std::move(change));
}

class Strip final : public Normalizer {
 public:
  explicit Strip(const JsonNode& node)
      : left_(node.at("strip_left", "true or false").boolean()),
        right_(node.at("strip_right", "true or false").boolean()) {}
  std::string normalize(std::string text, bool& at_start) const override {
    const auto is_space = [](char32_t c) { return (CharacterTable::get().classes(c) & kSpace) != 0; };
    std::size_t begin = 0, end = 0;  // of what stays
    bool seen = false;
    for (std::size_t i = 0; i < text.size();) {
      const Character c = read_character(std::string_view(text).substr(i));
      if (!is_space(c.code)) {
        if (!seen) begin = i;
        seen = true;
        end = i + c.length;
      }
      i += c.length;
    }
    if (!seen) return left_ || right_ ? std::string() : text;
    if (left_ && begin > 0) at_start = false;
    if (right_) text.erase(end);
    if (left_) text.erase(0, begin);
    return text;
  }

 private:
  bool left_;
  bool right_;
};

// What the preparation of data for machine translation does with control characters.
void append_nmt(char32_t c, std::string& out) {
  if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
  const bool blank = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                     c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  append_utf8(blank ? U' ' : c, out);
}

class Bytes final : public Normalizer {
 public:
  std::string normalize(std::string text, bool&) const override { return token_of_bytes(text); }
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(const JsonNode& list) {
    for (std::size_t i = 0; i < list.array_size(); ++i) parts_.push_back(parse_normalizer(list[i]));
  }
  std::string normalize(std::string text, bool& at_start) const override {
    for (const auto& part : parts_) text = part->normalize(std::move(text), at_start);
    return text;
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> parts_;
};

}  // namespace

std::unique_ptr<const Normalizer> parse_normalizer(const JsonNode& node) {
  const std::string& type = component_type(node);
  if (type == "Replace") return std::make_unique<Replace>(node);
  if (type == "Prepend") return std::make_unique<Prepend>(node);
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalizationForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalizationForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalizationForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalizationForm::kNfkd);
  if (type == "Lowercase") return change_characters(append_lowercase);
  if (type == "Strip") return std::make_unique<Strip>(node);
  if (type == "StripAccents") {
    return change_characters([](char32_t c, std::string& out) {
      if (!(CharacterTable::get().classes(c) & kAccent)) append_utf8(c, out);
    });
  }
  if (type == "Nmt") return change_characters(append_nmt);
  if (type == "ByteLevel") return std::make_unique<Bytes>();
  if (type == "Sequence") return std::make_unique<Sequence>(node.at("normalizers", "a list"));
  refuse_component(node,
                   "Replace, Prepend, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Nmt, ByteLevel, Sequence");
}

}  // namespace sao::detail
