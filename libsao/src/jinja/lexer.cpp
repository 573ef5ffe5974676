// SPDX-License-Identifier: Apache-2.0
#include "jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/utf8.h"
#include "jinja/methods.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

// \r\n and \r become \n; one newline at the end goes.
std::string normalized(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  Tokens run() {
    try {
      read_all();
      add(TokenType::kEnd);
      return {.list = std::move(tokens_)};
    } catch (const Failure& failure) {
      add(TokenType::kFailure);
      return {.list = std::move(tokens_), .failure = failure};
    }
  }

 private:
  void read_all() {
    while (place_ < source_.size()) {
      const std::size_t tag = find_tag(place_);
      if (tag == std::string::npos) {
        add_data(source_.substr(place_));
        place_ = source_.size();
        break;
      }
      // `{%-` takes all blanks before it along; `{%` and `{#` those of their line, where nothing else is before them.
      std::string_view data = rest().substr(0, tag - place_);
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (sign == '-') {
        data = strip(data, false, true);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        const std::size_t line_begin = data.rfind('\n') + 1;
        if (line_begin > 0 || line_starting_) {
          if (strip(data.substr(line_begin), true, false).empty()) data = data.substr(0, line_begin);
        }
      }
      add_data(data);
      take(tag - place_);
      if (source_[place_ + 1] == '#') {
        comment();
      } else if (!raw_block()) {
        take_tag();
      }
    }
  }

  std::string_view rest() const { return std::string_view(source_).substr(place_); }
  void take(std::size_t count) {
    line_ += static_cast<int>(std::ranges::count(rest().substr(0, count), '\n'));
    place_ += count;
  }
  bool take_if(std::string_view text) {
    if (!rest().starts_with(text)) return false;
    take(text.size());
    return true;
  }
  void take_blanks() { take(rest().size() - strip(rest(), true, false).size()); }

  Token& add(TokenType type, std::string text = {}) {
    tokens_.push_back({.type = type, .line = line_, .text = std::move(text)});
    return tokens_.back();
  }
  void add_data(std::string_view data) {
    if (!data.empty()) add(TokenType::kData, std::string(data));
  }

  std::size_t find_tag(std::size_t from) const {
    for (std::size_t i = source_.find('{', from); i != std::string::npos; i = source_.find('{', i + 1))
      if (i + 1 < source_.size() && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    return std::string::npos;
  }

  // The end of a tag with its effect on what follows: `-` takes all blanks, `+` none, and a block takes one newline.
  bool take_end(std::string_view end, bool is_block) {
    const std::size_t before = place_;
    const auto take_marked = [&](char mark) {
      const bool found = rest().starts_with(mark) && rest().substr(1).starts_with(end);
      if (found) take(1 + end.size());
      return found;
    };
    if (take_marked('-')) {
      take_blanks();
    } else if (is_block && take_marked('+')) {
    } else if (take_if(end)) {
      if (is_block) take_if("\n");
    } else {
      return false;
    }
    line_starting_ = place_ > before && source_[place_ - 1] == '\n';
    return true;
  }

  void comment() {
    const int begin_line = line_;
    take(2);
    const std::string_view marks = "-+";
    if (!rest().empty() && marks.find(rest()[0]) != marks.npos) take(1);
    const std::size_t end = source_.find("#}", place_);
    if (end == std::string::npos) fail("TemplateSyntaxError", "Missing end of comment tag", begin_line);
    const bool marked = end > place_ && marks.find(source_[end - 1]) != marks.npos;
    take(end - place_ - (marked ? 1 : 0));
    take_end("#}", true);
  }

  // `{% raw %}` and all to `{% endraw %}`, where the text starts with it.
  bool raw_block() {
    const std::size_t length = tag_length(rest(), "raw", /*is_end=*/false);
    if (length == 0) return false;
    const int begin_line = line_;
    const bool strips = rest().substr(0, length).ends_with("-%}");
    take(length);
    if (strips) take_blanks();
    line_starting_ = source_[place_ - 1] == '\n';
    for (std::size_t i = source_.find("{%", place_); i != std::string::npos; i = source_.find("{%", i + 1)) {
      const std::size_t end_length = tag_length(std::string_view(source_).substr(i), "endraw", /*is_end=*/true);
      if (end_length == 0) continue;
      std::string_view data = rest().substr(0, i - place_);
      if (source_[i + 2] == '-') {
        data = strip(data, false, true);
      } else if (source_[i + 2] != '+') {
        const std::size_t line_begin = data.rfind('\n') + 1;
        if ((line_begin > 0 || line_starting_) && strip(data.substr(line_begin), true, false).empty())
          data = data.substr(0, line_begin);
      }
      add_data(data);
      take(i - place_ + end_length - 2);
      if (source_[place_ - 1] == '-' || source_[place_ - 1] == '+') --place_;
      take_end("%}", true);
      return true;
    }
    fail("TemplateSyntaxError", "Missing end of raw directive", begin_line);
  }

  // The length of `{%- name -%}` at the start of `text`, 0 where it is something else.
  static std::size_t tag_length(std::string_view text, std::string_view name, bool is_end) {
    const std::size_t size = text.size();
    if (!text.starts_with("{%")) return 0;
    text.remove_prefix(2);
    if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
    text = strip(text, true, false);
    if (!text.starts_with(name)) return 0;
    text = strip(text.substr(name.size()), true, false);
    if (text.starts_with('-') || (is_end && text.starts_with('+'))) text.remove_prefix(1);
    return text.starts_with("%}") ? size - text.size() + 2 : 0;
  }

  // `{{ ... }}` or `{% ... %}`
  void take_tag() {
    const bool is_block = source_[place_ + 1] == '%';
    add(is_block ? TokenType::kBlockBegin : TokenType::kVariableBegin);
    take(2);
    if (rest().starts_with('-') || rest().starts_with('+')) take(1);
    std::string open;  // the brackets that are still open
    while (true) {
      const int line = line_;
      if (open.empty() && take_end(is_block ? "%}" : "}}", is_block)) {
        tokens_.push_back({.type = is_block ? TokenType::kBlockEnd : TokenType::kVariableEnd, .line = line});
        return;
      }
      if (rest().empty()) return;  // the parser says what it misses
      const std::size_t before = place_;
      take_blanks();
      if (place_ > before) continue;
      if (!number() && !name() && !string()) take_operator(open);
    }
  }

  // The end of `(\d+_)*\d+` that begins at `i`; `i` itself where there is none.
  std::size_t digits_end(std::size_t i) const {
    const auto digit = [&](std::size_t k) { return k < source_.size() && is_ascii_digit(source_[k]); };
    if (!digit(i)) return i;
    while (digit(i) || (i < source_.size() && source_[i] == '_' && digit(i + 1))) ++i;
    return i;
  }

  bool number() {
    const char first = source_[place_];
    if (!is_ascii_digit(first)) return false;
    std::size_t end = digits_end(place_);
    const bool after_dot = place_ > 0 && source_[place_ - 1] == '.';
    bool is_float = false;
    if (!after_dot) {
      std::size_t real_end = end;
      if (real_end < source_.size() && source_[real_end] == '.' && digits_end(real_end + 1) > real_end + 1) {
        real_end = digits_end(real_end + 1);
        is_float = true;
      }
      std::size_t exponent = real_end;
      if (exponent < source_.size() && (source_[exponent] == 'e' || source_[exponent] == 'E')) {
        ++exponent;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
        if (digits_end(exponent) > exponent) {
          real_end = digits_end(exponent);
          is_float = true;
        }
      }
      if (is_float) end = real_end;
    }
    if (is_float) {
      const std::string digits = without_underscores(place_, end);
      Token& token = add(TokenType::kFloat, digits);
      std::from_chars(digits.data(), digits.data() + digits.size(), token.number);
    } else {
      integer(end);
      return true;
    }
    take(end - place_);
    return true;
  }

  void integer(std::size_t end) {
    int base = 10;
    std::size_t begin = place_;
    if (source_[place_] == '0') {
      const char letter = place_ + 1 < source_.size() ? static_cast<char>(source_[place_ + 1] | 0x20) : '\0';
      base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
      const auto is_digit_of_base = [&](std::size_t i) {
        if (i >= source_.size()) return false;
        const char c = static_cast<char>(source_[i] | 0x20);
        return base == 16 ? is_ascii_digit(source_[i]) || (c >= 'a' && c <= 'f')
                          : source_[i] >= '0' && source_[i] < '0' + base;
      };
      if (base != 10) {
        begin = place_ + 2;
        end = begin;
        while (is_digit_of_base(end) || (end < source_.size() && source_[end] == '_' && is_digit_of_base(end + 1)))
          ++end;
        if (end == begin) base = 10;
      }
      if (base == 10) {
        // Only zeros: "0", "00", "0_0"; what follows is another token.
        begin = place_;
        end = place_ + 1;
        while (end < source_.size() && (source_[end] == '0' || (source_[end] == '_' && source_[end + 1] == '0'))) ++end;
      }
    }
    const std::string digits = without_underscores(begin, end);
    Token& token = add(TokenType::kInteger, digits);
    if (std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base).ec != std::errc())
      fail("Unsupported", "integers of more than 64 bits are not supported", line_);
    take(end - place_);
  }

  std::string without_underscores(std::size_t begin, std::size_t end) const {
    std::string text = source_.substr(begin, end - begin);
    std::erase(text, '_');
    return text;
  }

  bool name() {
    std::size_t end = place_;
    for (std::size_t i = place_; i < source_.size();) {
      const char32_t c = next_character(source_, i);
      if (c != '_' && !is_alnum(c)) break;
      end = i;
    }
    if (end == place_) return false;
    add(TokenType::kName, source_.substr(place_, end - place_));
    take(end - place_);
    return true;
  }

  bool string() {
    const char quote = source_[place_];
    if (quote != '"' && quote != '\'') return false;
    std::size_t end = place_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return false;  // an unexpected character
    const std::string_view inside = rest().substr(1, end - place_ - 1);
    add(TokenType::kString, unescaped(inside));
    take(end + 1 - place_);
    return true;
  }

  // The escapes of Python's string literals.
  std::string unescaped(std::string_view text) const {
    std::string value;
    const auto bad = [&](std::string_view what) {
      fail("TemplateSyntaxError", fmt::format("truncated {} escape", what), line_);
    };
    for (std::size_t i = 0; i < text.size();) {
      if (text[i] != '\\') {
        value += text[i++];
        continue;
      }
      const char c = text[i + 1];
      i += 2;
      const auto hex = [&](std::size_t count, std::string_view form) {
        unsigned code = 0;
        const auto* begin = text.data() + i;
        if (i + count > text.size() || std::from_chars(begin, begin + count, code, 16).ptr != begin + count) bad(form);
        if (code > 0x10FFFF) fail("TemplateSyntaxError", "illegal Unicode character", line_);
        if (code >= 0xD800 && code < 0xE000)
          fail("Unsupported", "characters of half a surrogate pair are not supported", line_);
        detail::append_utf8(code, value);
        i += count;
      };
      constexpr std::string_view kFrom = "\\'\"abfnrtv";
      constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const std::size_t simple = kFrom.find(c); simple != kFrom.npos) {
        value += kTo[simple];
      } else if (c == '\n') {
        // a line that goes on
      } else if (c >= '0' && c <= '7') {
        unsigned code = static_cast<unsigned>(c - '0');
        for (int more = 0; more < 2 && i < text.size() && text[i] >= '0' && text[i] <= '7'; ++more)
          code = code * 8 + static_cast<unsigned>(text[i++] - '0');
        detail::append_utf8(code, value);
      } else if (c == 'x') {
        hex(2, "\\xXX");
      } else if (c == 'u') {
        hex(4, "\\uXXXX");
      } else if (c == 'U') {
        hex(8, "\\UXXXXXXXX");
      } else if (c == 'N') {
        fail("Unsupported", "character names (\\N{...}) are not supported", line_);
      } else {
        value += '\\';
        value += c;
      }
    }
    return value;
  }

  void take_operator(std::string& open) {
    static constexpr std::array<std::string_view, 27> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";", ""};
    for (const std::string_view op : kOperators) {
      if (op.empty()) break;
      if (!rest().starts_with(op)) continue;
      if (op == "{" || op == "(" || op == "[") {
        open += op == "{" ? '}' : op == "(" ? ')' : ']';
      } else if (op == "}" || op == ")" || op == "]") {
        if (open.empty()) fail("TemplateSyntaxError", fmt::format("unexpected '{}'", op), line_);
        if (open.back() != op[0])
          fail("TemplateSyntaxError", fmt::format("unexpected '{}', expected '{}'", op, open.back()), line_);
        open.pop_back();
      }
      add(TokenType::kOperator, std::string(op));
      take(op.size());
      return;
    }
    std::size_t end = 0;
    next_character(rest(), end);
    fail("TemplateSyntaxError",
         fmt::format("unexpected char {} at {}", repr(rest().substr(0, end)),
                     detail::count_characters(std::string_view(source_).substr(0, place_))),
         line_);
  }

  std::string source_;
  std::size_t place_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // whether the last token ended with a newline
  std::vector<Token> tokens_;
};

}  // namespace

Tokens tokenize(std::string_view source) { return Lexer(source).run(); }

std::string describe(const Token& token) {
  switch (token.type) {
    case TokenType::kData:
      return "template data / text";
    case TokenType::kVariableBegin:
      return "begin of print statement";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kBlockBegin:
      return "begin of statement block";
    case TokenType::kBlockEnd:
      return "end of statement block";
    case TokenType::kString:
      return "string";
    case TokenType::kInteger:
      return "integer";
    case TokenType::kFloat:
      return "float";
    case TokenType::kEnd:
      return "end of template";
    default:
      return token.text;
  }
}

}  // namespace sao::jinja
