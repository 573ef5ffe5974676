// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#include <fmt/format.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "text/unicode.h"

namespace sao::detail {
namespace {

// PCRE2's \s has U+180E, Oniguruma's (White_Space) has not; PCRE2's \w lacks marks and connector punctuation.
constexpr std::string_view kSpaceClass =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// \w besides letters, marks, Nd, Nl and Pc; and what Oniguruma adds to it outside of character classes only.
constexpr std::string_view kWordBeyond =
    R"(\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";
constexpr std::string_view kWordOutsideClasses = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

// The insides of a character class for a general category as Oniguruma knows it (Unicode 16); PCRE2 10.42 knows
// Unicode 14.
std::string category_class(std::string_view name) {
  std::string out = fmt::format("\\p{{{}}}", name);
  for (const auto& [first, last] : newer_than_unicode_14(name))
    out += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<unsigned>(first), static_cast<unsigned>(last));
  return out;
}

std::string word_class(bool in_class) {
  std::string out(kWordBeyond);
  if (!in_class) out += kWordOutsideClasses;
  for (const char* name : {"L", "M", "Nd", "Nl", "Pc"}) out += category_class(name);
  return out;
}

pcre2_code* code_of(const std::shared_ptr<void>& code) { return static_cast<pcre2_code*>(code.get()); }

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) {
  const auto refuse = [&](std::string_view what) {
    throw InputError(fmt::format("{} is a regular expression with {}, expected one without", where, what));
  };
  std::string out;
  bool in_class = false;
  std::size_t class_begin = 0;  // index of the first character inside the brackets
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 'p' || escaped == 'P') {
        const std::size_t close = pattern.find('}', i);
        if (close == pattern.npos || pattern[i + 1] != '{') refuse(fmt::format("\\{} without braces", escaped));
        std::string_view name = pattern.substr(i + 2, close - i - 2);
        const bool negated = (escaped == 'P') != name.starts_with('^');
        if (name.starts_with('^')) name.remove_prefix(1);
        i = close;
        if (!is_category_name(name)) {  // a script: left to PCRE2
          out += fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name);
        } else if (negated && in_class) {
          refuse(fmt::format("\\P{{{}}} inside a character class", name));
        } else {
          out += in_class ? category_class(name) : fmt::format("[{}{}]", negated ? "^" : "", category_class(name));
        }
        continue;
      }
      const std::string set = escaped == 's' || escaped == 'S'   ? std::string(kSpaceClass)
                              : escaped == 'w' || escaped == 'W' ? word_class(in_class)
                                                                 : category_class("Nd");
      switch (escaped) {
        case 's':
        case 'w':
        case 'd':
          out += in_class ? set : fmt::format("[{}]", set);
          break;
        case 'S':
        case 'W':
        case 'D':
          if (in_class) refuse(fmt::format("\\{} inside a character class", escaped));
          out += fmt::format("[^{}]", set);
          break;
        case 'b':
        case 'B':
          // PCRE2's boundary goes by its own \w.
          refuse(fmt::format("\\{}", escaped));
          break;
        case 'h':
        case 'H':
        case 'R':
        case 'X':
        case 'G':
        case 'K':
          refuse(fmt::format("\\{}", escaped));
          break;
        default:
          out += '\\';
          out += escaped;
      }
      continue;
    }
    if (in_class) {
      if (c == ']' && i != class_begin) {
        in_class = false;
      } else if (c == '[' && !pattern.substr(i).starts_with("[:")) {
        refuse("a character class inside another");
      } else if (pattern.substr(i).starts_with("&&")) {
        refuse("an intersection of character classes");
      }
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (pattern.substr(i + 1).starts_with("^")) out += pattern[++i];
      class_begin = i + 1;
      continue;
    } else if (c == '}' && pattern.substr(i + 1).starts_with("+")) {
      // Oniguruma repeats the interval, PCRE2 makes it possessive. \p{L}+ and \x{20}+ are no intervals.
      const std::size_t open = pattern.rfind('{', i);
      const bool property = open != pattern.npos && open >= 2 && pattern[open - 2] == '\\' &&
                            std::string_view("pPx").find(pattern[open - 1]) != std::string_view::npos;
      if (!property) refuse("a repeated interval");
    }
    out += c;
  }
  return out;
}

Regex::Regex(std::string_view pattern, const std::string& where) : where_(where) {
  const std::string translated = to_pcre2(pattern, where);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's syntax, Oniguruma's default: ^ and $ are the ends of lines.
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get());
  if (!code) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    throw InputError(fmt::format("{} is not a regular expression ({} at character {}), expected one that compiles",
                                 where, reinterpret_cast<const char*>(message), offset));
  }
  code_ = std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter does it
}

std::string Regex::escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view(R"(\^$.|?*+()[]{}-#&~)").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

Regex::Finder::Finder(const Regex& regex, std::string_view text)
    : regex_(regex), text_(text), match_data_(pcre2_match_data_create(1, nullptr)) {
  if (!match_data_) throw std::bad_alloc();
}

Regex::Finder::~Finder() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_)); }

bool Regex::Finder::next(Match& match) {
  auto* data = static_cast<pcre2_match_data*>(match_data_);
  while (position_ <= text_.size()) {
    const auto run = [&](std::uint32_t options) {
      return pcre2_match(code_of(regex_.code_), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), position_,
                         PCRE2_NO_UTF_CHECK | options, data, nullptr);
    };
    int result = run(0);
    // The JIT's stack is fixed; the interpreter's grows.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      PCRE2_UCHAR message[256] = {};
      pcre2_get_error_message(result, message, sizeof message);
      throw InputError(fmt::format("{} cannot be matched against a text of {} bytes ({}), expected a simpler one",
                                   regex_.where_, text_.size(), reinterpret_cast<const char*>(message)));
    }
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data);
    if (ends[1] > ends[0]) {
      match = {ends[0], ends[1]};
      position_ = ends[1];
      return true;
    }
    const std::size_t at = ends[0];  // empty: go on behind the next character
    position_ = at < text_.size() ? at + character_length(text_.substr(at)) : text_.size() + 1;
  }
  position_ = text_.size() + 1;
  return false;
}

bool Regex::found_in(std::string_view text) const {
  Match match;
  return Finder(*this, text).next(match);
}

}  // namespace sao::detail
