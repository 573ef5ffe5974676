// SPDX-License-Identifier: Apache-2.0
#include "jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

constexpr std::int64_t kMaxWidth = 1'000'000;

// The letters of a format: `[[fill]align][sign][#][0][width][grouping][.precision][type]`, of both kinds of format.
struct Spec {
  char32_t fill = U' ';
  char align = 0;  // '<', '>', '^' or '='; 0 is the type's own
  char sign = '-';
  bool alternate = false;
  std::int64_t width = 0;
  char grouping = 0;
  std::int64_t precision = -1;
  char type = 0;
};

std::int64_t read_number(std::string_view text, std::size_t& i) {
  std::int64_t number = 0;
  while (i < text.size() && text[i] >= '0' && text[i] <= '9') {
    number = number * 10 + (text[i++] - '0');
    if (number > kMaxWidth) value_error("Too many decimal digits in format string");
  }
  return number;
}

std::string ascii_only(std::string_view text) {
  std::string escaped_text;
  for (std::size_t i = 0; i < text.size();) {
    const char32_t c = next_character(text, i);
    if (c < 0x80) {
      escaped_text += static_cast<char>(c);
    } else {
      escaped_text += c < 0x100     ? fmt::format("\\x{:02x}", static_cast<unsigned>(c))
                      : c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<unsigned>(c))
                                    : fmt::format("\\U{:08x}", static_cast<unsigned>(c));
    }
  }
  return escaped_text;
}

// `sign`, `prefix` and `digits` in a field; the rest of a number (".5e10") belongs to the digits.
std::string pad(Runtime& runtime, const Spec& spec, std::string_view sign, std::string_view digits, char own_align) {
  const auto used = static_cast<std::int64_t>(detail::count_characters(sign) + detail::count_characters(digits));
  const std::int64_t gap = std::max<std::int64_t>(spec.width - used, 0);
  runtime.allocate(static_cast<std::size_t>(gap) * 4);
  const char align = spec.align ? spec.align : own_align;
  const auto fill = [&](std::int64_t count) {
    std::string text;
    for (std::int64_t i = 0; i < count; ++i) detail::append_utf8(spec.fill, text);
    return text;
  };
  std::string text;
  if (align == '=') return text.append(sign) + fill(gap) + std::string(digits);
  const std::int64_t before = align == '<' ? 0 : align == '>' ? gap : gap / 2;
  return fill(before).append(sign).append(digits) + fill(gap - before);
}

// Separators between groups of digits of the integer part.
std::string grouped(std::string_view number, char separator, std::size_t size, std::int64_t at_least) {
  std::size_t end = 0;
  while (end < number.size() && std::isxdigit(static_cast<unsigned char>(number[end])) != 0) ++end;
  std::string integer(number.substr(0, end));
  const std::string_view rest = number.substr(end);
  const auto with_separators = [&] {
    std::string text;
    for (std::size_t i = 0; i < integer.size(); ++i) {
      if (i > 0 && (integer.size() - i) % size == 0) text += separator;
      text += integer[i];
    }
    return text;
  };
  // Zeros that fill a field are grouped too.
  std::string text = with_separators();
  const auto missing = at_least - static_cast<std::int64_t>(text.size() + rest.size());
  if (missing <= 0 || integer.empty()) return text.append(rest);
  std::size_t count = integer.size();
  while (count + (count - 1) / size + rest.size() < static_cast<std::size_t>(at_least)) ++count;
  integer.insert(0, count - integer.size(), '0');
  return with_separators().append(rest);
}

std::string_view sign_of(const Spec& spec, bool is_negative) {
  return is_negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
}

std::string printf_float(double value, char type, int precision, bool alternate) {
  const std::string format = fmt::format("%{}.*{}", alternate ? "#" : "", type);
  const int size = std::snprintf(nullptr, 0, format.c_str(), precision, value);
  std::string text(static_cast<std::size_t>(size) + 1, '\0');
  std::snprintf(text.data(), text.size(), format.c_str(), precision, value);
  text.pop_back();
  return text;
}

std::string number_field(Runtime& runtime, const Spec& spec, std::string_view sign, std::string digits) {
  if (spec.grouping) {
    const bool zeros = spec.align == '=' && spec.fill == U'0';
    const bool fours = spec.type == 'b' || spec.type == 'o' || spec.type == 'x' || spec.type == 'X';
    runtime.allocate(static_cast<std::size_t>(spec.width));
    digits =
        grouped(digits, spec.grouping, fours ? 4 : 3, zeros ? spec.width - static_cast<std::int64_t>(sign.size()) : 0);
  }
  return pad(runtime, spec, sign, digits, '>');
}

std::string format_float(Runtime& runtime, double value, Spec spec) {
  const std::string_view sign = sign_of(spec, std::signbit(value) && !std::isnan(value));
  const double size = std::fabs(value);
  const bool upper_case = spec.type == 'E' || spec.type == 'F' || spec.type == 'G';
  const int precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  std::string digits;
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
    if (upper_case) digits = std::isnan(value) ? "NAN" : "INF";
    if (spec.type == '%') digits += '%';
  } else if (spec.type == '%') {
    digits = printf_float(size * 100, 'f', precision, spec.alternate) + "%";
  } else if (spec.type == 0 && spec.precision < 0) {
    digits = repr(size);
  } else if (spec.type == 0) {
    digits = printf_float(size, 'g', std::max(precision, 1), spec.alternate);
    if (digits.find_first_of(".e") == digits.npos) digits += ".0";
  } else {
    runtime.allocate(static_cast<std::size_t>(precision));
    digits = printf_float(size, spec.type == 'n' ? 'g' : spec.type, precision, spec.alternate);
  }
  return number_field(runtime, spec, sign, std::move(digits));
}

std::string integer_digits(std::int64_t value, char type) {
  const std::uint64_t size = value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  switch (type) {
    case 'b':
      return fmt::format("{:b}", size);
    case 'o':
      return fmt::format("{:o}", size);
    case 'x':
      return fmt::format("{:x}", size);
    case 'X':
      return fmt::format("{:X}", size);
    default:
      return fmt::format("{}", size);
  }
}

std::string one_character(std::int64_t code) {
  if (code < 0 || code > 0x10FFFF) fail("OverflowError", "%c arg not in range(0x110000)");
  if (code >= 0xD800 && code < 0xE000) unsupported("characters of half a surrogate pair are not supported");
  std::string text;
  detail::append_utf8(static_cast<char32_t>(code), text);
  return text;
}

std::string format_integer(Runtime& runtime, std::int64_t value, Spec spec) {
  if (spec.type == 'c') return pad(runtime, spec, "", one_character(value), '<');
  if (spec.precision >= 0) value_error("Precision not allowed in integer format specifier");
  std::string sign(sign_of(spec, value < 0));
  if (spec.alternate && spec.type != 0 && spec.type != 'd' && spec.type != 'n') sign += std::string("0") + spec.type;
  return number_field(runtime, spec, sign, integer_digits(value, spec.type));
}

Spec parse_spec(std::string_view text) {
  Spec spec;
  const auto is_align = [](char32_t c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  std::size_t i = 0;
  bool has_fill = false;
  if (!text.empty()) {
    std::size_t second = 0;
    const char32_t first = next_character(text, second);
    if (second < text.size() && is_align(static_cast<unsigned char>(text[second]))) {
      spec.fill = first;
      spec.align = text[second];
      i = second + 1;
      has_fill = true;
    } else if (is_align(first)) {
      spec.align = text[0];
      i = 1;
    }
  }
  const auto at = [&](std::string_view set) { return i < text.size() && set.find(text[i]) != set.npos; };
  if (at("+- ")) spec.sign = text[i++];
  if (at("#")) spec.alternate = text[i++] == '#';
  if (at("0")) {
    if (!has_fill) spec.fill = U'0';
    if (spec.align == 0) spec.align = '=';
    ++i;
  }
  spec.width = read_number(text, i);
  if (at(",_")) spec.grouping = text[i++];
  if (at(".")) {
    ++i;
    if (!at("0123456789")) value_error("Format specifier missing precision");
    spec.precision = read_number(text, i);
  }
  if (i + 1 < text.size()) value_error("Invalid format specifier");
  if (i < text.size()) spec.type = text[i];
  return spec;
}

// The built-in format(value, spec).
std::string format_value(Runtime& runtime, const Value& value, std::string_view text) {
  const auto* boolean = std::get_if<bool>(&value.data());
  if (text.empty() || (boolean && text.empty())) return str(runtime, value);
  const auto unknown = [&](const Spec& spec) {
    value_error("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
  };
  const auto has = [](std::string_view set, char type) { return type == 0 || set.find(type) != set.npos; };
  if (const auto* string = as<StringObject>(value)) {
    const Spec spec = parse_spec(text);
    if (!has("s", spec.type)) unknown(spec);
    if (spec.align == '=') value_error("'=' alignment not allowed in string format specifier");
    std::string_view shown = string->text();
    std::size_t end = 0;
    for (std::int64_t i = 0; i < spec.precision && end < shown.size(); ++i) next_character(shown, end);
    if (spec.precision >= 0) shown = shown.substr(0, end);
    return pad(runtime, spec, "", shown, '<');
  }
  if (const auto integer = as_integer(value)) {
    const Spec spec = parse_spec(text);
    if (has("bcdoxXn", spec.type)) return format_integer(runtime, *integer, spec);
    if (!has("eEfFgG%", spec.type)) unknown(spec);
    return format_float(runtime, static_cast<double>(*integer), spec);
  }
  if (const auto number = as_float(value)) {
    const Spec spec = parse_spec(text);
    if (!has("eEfFgGn%", spec.type)) unknown(spec);
    return format_float(runtime, *number, spec);
  }
  type_error("unsupported format string passed to {}.__format__", type_name(value));
}

// One conversion of percent_format at a time.
class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const Value& format, const Value& values)
      : runtime_(runtime),
        text_(as<StringObject>(format)->text()),
        markup_(as<StringObject>(format)->markup()),
        values_(values) {
    const auto* sequence = as<SequenceObject>(values);
    if (sequence && !sequence->is_list()) {
      list_ = sequence->items();
    } else {
      list_ = {values};
      is_mapping_ = as<DictObject>(values) || sequence || is_undefined(values) || as<RangeObject>(values);
    }
  }

  std::string run() {
    std::string result;
    while (place_ < text_.size()) {
      const std::size_t percent = std::min(text_.find('%', place_), text_.size());
      result += text_.substr(place_, percent - place_);
      place_ = percent + 1;
      if (percent < text_.size()) result += conversion();
      runtime_.allocate(64);
    }
    if (next_ < list_.size() && !is_mapping_) type_error("not all arguments converted during string formatting");
    return result;
  }

 private:
  char peek() const {
    if (place_ >= text_.size()) value_error("incomplete format");
    return text_[place_];
  }

  Value next_value() {
    if (next_ >= list_.size()) type_error("not enough arguments for format string");
    return list_[next_++];
  }

  std::int64_t number_or_star() {
    if (peek() != '*') return read_number(text_, place_);
    ++place_;
    const auto number = as_integer(next_value());
    if (!number) type_error("* wants int");
    if (*number > kMaxWidth || *number < -kMaxWidth) value_error("width too big");
    return *number;
  }

  std::string conversion() {
    Spec spec;
    std::optional<Value> value;
    if (peek() == '(') value = keyed_value();
    bool left = false;
    bool zero = false;
    for (; std::string_view("-+ #0").find(peek()) != std::string_view::npos; ++place_) {
      const char flag = peek();
      if (flag == '-') left = true;
      if (flag == '0') zero = true;
      if (flag == '#') spec.alternate = true;
      if (flag == '+' || (flag == ' ' && spec.sign != '+')) spec.sign = flag;
    }
    spec.width = number_or_star();
    if (spec.width < 0) {
      left = true;
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++place_;
      spec.precision = std::max<std::int64_t>(number_or_star(), 0);
    }
    while (peek() == 'h' || peek() == 'l' || peek() == 'L') ++place_;
    spec.type = peek();
    const std::size_t type_place = place_++;
    if (spec.type == '%') return "%";
    if (std::string_view("sradiuxXoeEfFgGc").find(spec.type) == std::string_view::npos)
      value_error("unsupported format character '{}' (0x{:x}) at index {}", spec.type,
                  static_cast<unsigned char>(spec.type), type_place);
    if (!value) value = next_value();
    spec.align = left ? '<' : '>';
    if (zero && !left && std::string_view("srac").find(spec.type) == std::string_view::npos) {
      spec.align = '=';
      spec.fill = U'0';
    }
    return converted(spec, *value);
  }

  Value keyed_value() {
    if (!is_mapping_) type_error("format requires a mapping");
    const std::size_t begin = ++place_;
    for (int open = 1; open > 0; ++place_) {
      if (place_ >= text_.size()) value_error("incomplete format key");
      if (text_[place_] == '(') ++open;
      if (text_[place_] == ')') --open;
    }
    const std::string_view name = std::string_view(text_).substr(begin, place_ - 1 - begin);
    const auto* dict = as<DictObject>(values_);
    if (!dict) type_error("format requires a mapping");
    const Value* found = dict->find(name);
    if (!found) fail("KeyError", repr(name));
    return *found;
  }

  std::string converted(Spec spec, const Value& value) {
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a': {
        std::string text = spec.type == 's' ? str(runtime_, value) : repr(runtime_, value);
        if (markup_ && spec.type == 's') text = escaped(runtime_, value);
        if (spec.type == 'a') text = ascii_only(text);
        std::size_t end = 0;
        for (std::int64_t i = 0; i < spec.precision && end < text.size(); ++i) next_character(text, end);
        if (spec.precision >= 0) text.resize(end);
        runtime_.allocate(text.size());
        return pad(runtime_, spec, "", text, '>');
      }
      case 'c': {
        if (const auto* string = as<StringObject>(value)) {
          if (detail::count_characters(string->text()) != 1) type_error("%c requires int or char");
          return pad(runtime_, spec, "", string->text(), '>');
        }
        const auto code = as_integer(value);
        if (!code) type_error("%c requires int or char");
        return pad(runtime_, spec, "", one_character(*code), '>');
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return integer(spec, value);
      default: {
        const auto number = as_float(value);
        if (!number) {
          if (const auto* undefined = as<UndefinedObject>(value)) undefined->fail_undefined();
          type_error("must be real number, not {}", type_name(value));
        }
        return format_float(runtime_, *number, spec);
      }
    }
  }

  std::string integer(Spec spec, const Value& value) {
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    auto number = as_integer(value);
    if (!number && decimal) {
      if (const auto real = as_float(value)) {
        if (!(std::fabs(*real) < 9e18)) unsupported("integers of more than 64 bits are not supported");
        number = static_cast<std::int64_t>(*real);
      }
    }
    if (!number) {
      if (const auto* undefined = as<UndefinedObject>(value)) undefined->fail_undefined();
      if (decimal) type_error("%{} format: a real number is required, not {}", spec.type, type_name(value));
      type_error("%{} format: an integer is required, not {}", spec.type, type_name(value));
    }
    std::string digits = integer_digits(*number, spec.type);
    if (static_cast<std::int64_t>(digits.size()) < spec.precision) {
      runtime_.allocate(static_cast<std::size_t>(spec.precision));
      digits.insert(0, static_cast<std::size_t>(spec.precision) - digits.size(), '0');
    }
    std::string sign(sign_of(spec, *number < 0));
    if (spec.alternate && !decimal) sign += std::string("0") + spec.type;
    return pad(runtime_, spec, sign, digits, '>');
  }

  Runtime& runtime_;
  const std::string& text_;
  bool markup_;
  const Value& values_;
  std::vector<Value> list_;
  bool is_mapping_ = false;
  std::size_t next_ = 0;
  std::size_t place_ = 0;
};

// Python's string.Formatter with the sandbox's look-ups.
class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Arguments& arguments, bool markup)
      : runtime_(runtime), arguments_(arguments), markup_(markup) {}

  std::string run(std::string_view text, int depth = 2) {
    if (depth < 0) value_error("Max string recursion exceeded");
    std::string result;
    for (std::size_t i = 0; i < text.size();) {
      const char c = text[i++];
      if (c != '{' && c != '}') {
        result += c;
        continue;
      }
      if (i < text.size() && text[i] == c) {
        result += c;
        ++i;
        continue;
      }
      if (c == '}') value_error("Single '}}' encountered in format string");
      if (i == text.size()) value_error("Single '{{' encountered in format string");
      const std::size_t begin = i;
      int open = 1;
      while (i < text.size() && open > 0) {
        if (text[i] == '{') ++open;
        if (text[i] == '}') --open;
        ++i;
      }
      if (open > 0) value_error("expected '}}' before end of string");
      result += field(text.substr(begin, i - 1 - begin), depth);
      runtime_.allocate(64);
    }
    return result;
  }

 private:
  std::string field(std::string_view text, int depth) {
    // name, then !conversion, then :spec; brackets in the name hide both.
    std::size_t end = 0;
    for (bool bracket = false; end < text.size(); ++end) {
      if (text[end] == '[') bracket = true;
      if (text[end] == ']') bracket = false;
      if (!bracket && (text[end] == '!' || text[end] == ':')) break;
    }
    Value value = look_up(text.substr(0, end));
    std::string_view rest = text.substr(end);
    std::optional<std::string> shown;
    if (rest.starts_with('!')) {
      const char conversion = rest.size() > 1 ? rest[1] : ' ';
      if (conversion != 's' && conversion != 'r' && conversion != 'a')
        value_error("Unknown conversion specifier '{}'", conversion);
      shown = conversion == 's' ? str(runtime_, value) : repr(runtime_, value);
      if (conversion == 'a') shown = ascii_only(*shown);
      value = runtime_.string(*shown);
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') value_error("expected ':' after conversion specifier");
    }
    const std::string spec = rest.empty() ? std::string() : run(rest.substr(1), depth - 1);
    std::string result;
    if (markup_) {
      const auto* string = as<StringObject>(value);
      result = string && string->markup() ? string->text()
                                          : escaped(runtime_, runtime_.string(format_value(runtime_, value, spec)));
    } else {
      result = format_value(runtime_, value, spec);
    }
    runtime_.allocate(result.size());
    return result;
  }

  Value look_up(std::string_view name) {
    const std::size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = first(name.substr(0, end));
    for (std::size_t i = end; i < name.size();) {
      if (name[i] == '.') {
        const std::size_t stop = std::min(name.find_first_of(".[", i + 1), name.size());
        if (stop == i + 1) value_error("Empty attribute in format string");
        value = get_attribute(runtime_, value, name.substr(i + 1, stop - i - 1));
        i = stop;
      } else if (name[i] == '[') {
        const std::size_t stop = name.find(']', i);
        if (stop == name.npos) value_error("Missing ']' in format string");
        const std::string_view key = name.substr(i + 1, stop - i - 1);
        if (key.empty()) value_error("Empty attribute in format string");
        value = get_item(runtime_, value, is_number(key) ? Value(number(key)) : runtime_.string(std::string(key)));
        i = stop + 1;
      } else {
        value_error("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Value first(std::string_view name) {
    if (name.empty() || is_number(name)) {
      if (name.empty() != (automatic_ != Numbering::kManual) && automatic_ != Numbering::kOpen)
        value_error("cannot switch from {}", name.empty() ? "manual field specification to automatic field numbering"
                                                          : "automatic field numbering to manual field specification");
      automatic_ = name.empty() ? Numbering::kAutomatic : Numbering::kManual;
      const std::int64_t index = name.empty() ? next_++ : number(name);
      if (index >= static_cast<std::int64_t>(arguments_.positional.size()))
        fail("IndexError", "tuple index out of range");
      return arguments_.positional[static_cast<std::size_t>(index)];
    }
    runtime_.step(1 + static_cast<std::int64_t>(arguments_.named.size() / 16));
    for (const auto& [key, value] : arguments_.named)
      if (key == name) return value;
    fail("KeyError", repr(name));
  }

  static bool is_number(std::string_view text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
  }
  static std::int64_t number(std::string_view text) {
    std::size_t i = 0;
    return read_number(text, i);
  }

  enum class Numbering { kOpen, kAutomatic, kManual };

  Runtime& runtime_;
  const Arguments& arguments_;
  bool markup_;
  Numbering automatic_ = Numbering::kOpen;
  std::int64_t next_ = 0;
};

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  void write(const Value& value) {
    const Runtime::Depth depth(runtime_);
    runtime_.allocate(4);
    if (const auto* string = as<StringObject>(value)) return write(string->text());
    if (const auto* sequence = as<SequenceObject>(value)) return write(sequence->items());
    if (const auto* dict = as<DictObject>(value)) return write(dict->entries());
    if (std::holds_alternative<Value::Pointer>(value.data()))
      type_error("Object of type {} is not JSON serializable", type_name(value));
    text_ += scalar(value);
  }

  std::string take() { return std::move(text_); }

 private:
  std::string scalar(const Value& value) const {
    if (is_none(value)) return "null";
    if (const auto* boolean = std::get_if<bool>(&value.data())) return *boolean ? "true" : "false";
    if (const auto* number = std::get_if<double>(&value.data())) {
      if (std::isnan(*number)) return "NaN";
      if (std::isinf(*number)) return *number < 0 ? "-Infinity" : "Infinity";
      return repr(*number);
    }
    return fmt::format("{}", *as_integer(value));
  }

  void write(const std::string& string) {
    runtime_.allocate(string.size());
    text_ += '"';
    for (std::size_t i = 0; i < string.size();) {
      const std::size_t begin = i;
      const char32_t c = next_character(string, i);
      if (c == '"' || c == '\\') {
        text_ += '\\';
        text_ += static_cast<char>(c);
      } else if (c < 0x20) {
        constexpr std::string_view kLetters = "btn fr";  // of 0x08 to 0x0D
        if (c >= 0x08 && c <= 0x0D && c != 0x0B) {
          text_ += '\\';
          text_ += kLetters[c - 0x08];
        } else {
          unit(c);
        }
      } else if (c < 0x80 || !style_.ascii_only) {
        text_ += string.substr(begin, i - begin);
      } else if (c < 0x10000) {
        unit(c);
      } else {
        unit(0xD800 + ((c - 0x10000) >> 10));
        unit(0xDC00 + ((c - 0x10000) & 0x3FF));
      }
    }
    text_ += '"';
  }
  void unit(char32_t c) { text_ += fmt::format("\\u{:04x}", static_cast<unsigned>(c)); }

  // Between two items, or before the first and after the last one.
  void line() {
    if (!style_.indent) return;
    text_ += '\n';
    runtime_.allocate(style_.indent->size() * static_cast<std::size_t>(level_));
    for (int i = 0; i < level_; ++i) text_ += *style_.indent;
  }

  template <class Items, class Each>
  void write_items(char open, char close, const Items& items, const Each& each) {
    text_ += open;
    ++level_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) text_ += style_.item_separator;
      line();
      each(items[i]);
    }
    --level_;
    if (!items.empty()) line();
    text_ += close;
  }

  void write(const std::vector<Value>& items) {
    write_items('[', ']', items, [&](const Value& item) { write(item); });
  }

  void write(std::vector<DictObject::Entry> entries) {
    if (style_.sort_keys)
      std::ranges::stable_sort(
          entries, [&](const Value& a, const Value& b) { return compare(runtime_, "<", a, b); },
          &DictObject::Entry::first);
    write_items('{', '}', entries, [&](const DictObject::Entry& entry) {
      const auto* name = as<StringObject>(entry.first);
      if (!name && std::holds_alternative<Value::Pointer>(entry.first.data()))
        type_error("keys must be str, int, float, bool or None, not {}", type_name(entry.first));
      write(name ? name->text() : scalar(entry.first));
      text_ += style_.key_separator;
      write(entry.second);
    });
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string text_;
  int level_ = 0;
};

}  // namespace

Value percent_format(Runtime& runtime, const Value& format, const Value& values) {
  return runtime.string(PercentFormatter(runtime, format, values).run(), as<StringObject>(format)->markup());
}

Value brace_format(Runtime& runtime, const Value& format, const Arguments& arguments) {
  const auto* string = as<StringObject>(format);
  return runtime.string(BraceFormatter(runtime, arguments, string->markup()).run(string->text()), string->markup());
}

std::string fixed(double value, int precision) { return printf_float(value, 'f', precision, false); }

std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  writer.write(value);
  return writer.take();
}

}  // namespace sao::jinja
