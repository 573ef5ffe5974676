// SPDX-License-Identifier: Apache-2.0
#include "toml.h"

#include <fmt/format.h>
#include <sao/base/error.h>
#include <sao/io/files.h>

#include <algorithm>
#include <cstdint>

namespace sao::cli {
namespace {

bool is_bare(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

void append_utf8(std::string& text, std::uint32_t code) {
  const auto byte = [&](std::uint32_t value) { text += static_cast<char>(value); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xC0 | (code >> 6));
    byte(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    byte(0xE0 | (code >> 12));
    byte(0x80 | ((code >> 6) & 0x3F));
    byte(0x80 | (code & 0x3F));
  } else {
    byte(0xF0 | (code >> 18));
    byte(0x80 | ((code >> 12) & 0x3F));
    byte(0x80 | ((code >> 6) & 0x3F));
    byte(0x80 | (code & 0x3F));
  }
}

class Parser {
 public:
  Parser(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  std::vector<TomlEntry> parse() {
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (text_.starts_with(kByteOrderMark)) at_ = kByteOrderMark.size();
    for (skip(true); !done(); skip(true)) {
      if (peek() == '[') {
        table();
      } else {
        entry(table_);
      }
      skip(false);
      if (!done() && peek() != '\n') fail("more behind the value", "the end of the line");
    }
    return std::move(entries_);
  }

 private:
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool starts(std::string_view text) const { return text_.substr(at_).starts_with(text); }

  char take() {
    if (done()) fail("the end of the file", "more");
    const char c = text_[at_++];
    if (c == '\n') ++line_;
    return c;
  }

  [[noreturn]] void fail(const std::string& found, const std::string& expected) const {
    throw InputError(fmt::format("{}:{}: {}, expected {}", where_, line_, found, expected));
  }

  /// Blanks and comments; with `newlines` the ends of lines too.
  void skip(bool newlines) {
    while (!done()) {
      if (peek() == '#') {
        while (!done() && peek() != '\n') ++at_;
      } else if (peek() == ' ' || peek() == '\t' || peek() == '\r' || (newlines && peek() == '\n')) {
        take();
      } else {
        return;
      }
    }
  }

  /// What stands here, for messages.
  std::string found() const {
    if (done()) return "the end of the file";
    return peek() == '\n' || peek() == '\r' ? "the end of the line" : fmt::format("'{}'", peek());
  }

  void expect(char c, const char* what) {
    if (peek() != c) fail(found(), what);
    take();
  }

  void table() {
    take();
    if (peek() == '[') fail("a list of tables", "a table");
    table_ = key();
    expect(']', "']' at the end of the table's name");
    table_ += '.';
  }

  std::string key() {
    std::string name;
    for (;;) {
      skip(false);
      if (peek() == '"' || peek() == '\'') {
        name += string();
      } else {
        const std::size_t begin = at_;
        while (is_bare(peek())) ++at_;
        if (at_ == begin) fail(found(), "a key");
        name += text_.substr(begin, at_ - begin);
      }
      skip(false);
      if (peek() != '.') return name;
      take();
      name += '.';
    }
  }

  void entry(const std::string& prefix) {
    const std::size_t line = line_;
    const std::string name = prefix + key();
    expect('=', fmt::format("'=' behind the key {}", name).c_str());
    skip(false);
    if (peek() == '{') {
      inline_table(name + ".");
      return;
    }
    const std::string text = peek() == '[' ? list() : scalar();
    const bool twice =
        std::any_of(entries_.begin(), entries_.end(), [&](const TomlEntry& other) { return other.key == name; });
    if (twice) fail(fmt::format("{} a second time", name), "every key once");
    entries_.push_back({name, text, line});
  }

  void inline_table(const std::string& prefix) {
    take();
    skip(false);
    while (peek() != '}') {
      entry(prefix);
      skip(false);
      if (peek() != '}') expect(',', "',' or '}'");
      skip(false);
    }
    take();
  }

  std::string list() {
    std::string joined;
    take();
    for (skip(true); peek() != ']'; skip(true)) {
      if (peek() == '[' || peek() == '{') fail("a list in a list", "strings, numbers or booleans");
      const std::string item = scalar();
      joined += (joined.empty() ? "" : ",") + item;
      skip(true);
      if (peek() != ']') expect(',', "',' or ']'");
    }
    take();
    return joined;
  }

  std::string scalar() {
    if (peek() == '"' || peek() == '\'') return string();
    const std::size_t begin = at_;
    while (!done() && (is_bare(peek()) || peek() == '+' || peek() == '.' || peek() == ':')) ++at_;
    std::string word(text_.substr(begin, at_ - begin));
    if (word == "true" || word == "false") return word;
    const bool number = !word.empty() && word.find_first_of("0123456789") != std::string::npos &&
                        word.find_first_not_of("0123456789+-._eE") == std::string::npos;
    if (!number && word != "inf" && word != "nan") {
      fail(word.empty() ? "no value" : fmt::format("the value {}", word),
           "a string in quotes, a number, true or false");
    }
    word.erase(std::remove(word.begin(), word.end(), '_'), word.end());
    return word;
  }

  std::string string() {
    const char quote = take();
    const std::string_view three = quote == '"' ? "\"\"\"" : "'''";
    if (at_ > 0 && text_.substr(at_ - 1).starts_with(three)) {
      at_ += 2;
      if (starts("\r\n")) ++at_;
      if (peek() == '\n') take();
      std::string value;
      while (!starts(three)) value += quote == '"' && peek() == '\\' ? escape() : std::string(1, take());
      at_ += 3;
      return value;
    }
    std::string value;
    while (peek() != quote) {
      if (done() || peek() == '\n') fail("a string without its end", "a closing quote on the same line");
      value += quote == '"' && peek() == '\\' ? escape() : std::string(1, take());
    }
    take();
    return value;
  }

  std::string escape() {
    take();
    const char c = take();
    switch (c) {
      case 'b':
        return "\b";
      case 't':
        return "\t";
      case 'n':
        return "\n";
      case 'f':
        return "\f";
      case 'r':
        return "\r";
      case '"':
        return "\"";
      case '\\':
        return "\\";
      case '\n':  // a line that goes on: blanks before the next text do not count
        while (!done() && (peek() == ' ' || peek() == '\t' || peek() == '\r' || peek() == '\n')) take();
        return "";
      case 'u':
      case 'U': {
        std::uint32_t code = 0;
        for (int digits = c == 'u' ? 4 : 8; digits > 0; --digits) {
          const char digit = take();
          const std::size_t value = std::string_view("0123456789abcdef").find(static_cast<char>(digit | 0x20));
          if (value == std::string_view::npos) fail("an escape with other characters", "hexadecimal digits");
          code = code * 16 + static_cast<std::uint32_t>(value);
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail("an escape that is no character", "one");
        std::string value;
        append_utf8(value, code);
        return value;
      }
      default:
        fail(fmt::format("the escape \\{}", c), "one that TOML has");
    }
  }

  std::string_view text_;
  std::string where_;
  std::string table_;
  std::vector<TomlEntry> entries_;
  std::size_t at_ = 0;
  std::size_t line_ = 1;
};

}  // namespace

std::vector<TomlEntry> parse_toml(std::string_view text, const std::string& where) {
  return Parser(text, where).parse();
}

std::vector<TomlEntry> read_toml(const std::filesystem::path& path) {
  constexpr std::uint64_t kMaxBytes = 1 << 24;
  return parse_toml(read_file(path, kMaxBytes), path.string());
}

}  // namespace sao::cli
