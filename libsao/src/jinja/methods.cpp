// SPDX-License-Identifier: Apache-2.0
#include "jinja/methods.h"

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "jinja/format.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

const std::string& text_of(const Value& self) { return as<StringObject>(self)->text(); }

// A string of the same class as `self`.
Value like(Runtime& runtime, const Value& self, std::string text) {
  return runtime.string(std::move(text), as<StringObject>(self)->markup());
}

const std::string& string_argument(std::string_view function, const Value& value) {
  const auto* string = as<StringObject>(value);
  if (!string) type_error("{}() argument must be str, not {}", function, type_name(value));
  return string->text();
}

// None counts as not given.
std::optional<std::string_view> optional_text(std::string_view function, const std::optional<Value>& value) {
  if (!value || is_none(*value)) return std::nullopt;
  return string_argument(function, *value);
}

void check_width(Runtime& runtime, std::int64_t width) {
  if (width > 0) runtime.allocate(static_cast<std::size_t>(width));
}

// The part of a text between two character indices, as find, count and startswith take them.
struct Part {
  std::string_view text;
  std::int64_t characters_before = 0;
  bool inverted = false;  // the start lies behind the end: nothing is found, not even the empty text
};
Part part_of(const std::string& text, const std::optional<Value>& start, const std::optional<Value>& end) {
  if (!start && !end) return {text};
  const auto size = detail::count_characters(text);
  const auto place = [&](const std::optional<Value>& value, std::int64_t otherwise) {
    if (!value || is_none(*value)) return otherwise;
    const std::int64_t index = integer_or(value, 0);
    return index < 0 ? std::max<std::int64_t>(index + size, 0) : index;
  };
  const std::int64_t first = place(start, 0);
  const std::int64_t last = std::min(place(end, size), size);
  if (first > last) return {{}, 0, true};
  std::size_t begin = 0;
  for (std::int64_t i = 0; i < first; ++i) next_character(text, begin);
  std::size_t stop = begin;
  for (std::int64_t i = first; i < last; ++i) next_character(text, stop);
  return {std::string_view(text).substr(begin, stop - begin), first, false};
}

std::int64_t find_in(Runtime& runtime, const Value& self, Arguments& arguments, bool from_right) {
  const auto values = bind("find", arguments, {"sub", "start", "end"}, 1);
  const Part part = part_of(text_of(self), values[1], values[2]);
  const std::string& wanted = string_argument("find", *values[0]);
  runtime.search(part.text.size(), wanted.size());
  const std::size_t place = part.inverted ? part.text.npos
                            : from_right  ? part.text.rfind(wanted)
                                          : part.text.find(wanted);
  if (place == part.text.npos) return -1;
  return part.characters_before + detail::count_characters(part.text.substr(0, place));
}

Value find(Runtime& runtime, const Value& self, Arguments& arguments) {
  return find_in(runtime, self, arguments, false);
}
Value rfind(Runtime& runtime, const Value& self, Arguments& arguments) {
  return find_in(runtime, self, arguments, true);
}
Value string_index(Runtime& runtime, const Value& self, Arguments& arguments) {
  const std::int64_t place = find_in(runtime, self, arguments, false);
  if (place < 0) value_error("substring not found");
  return place;
}
Value string_rindex(Runtime& runtime, const Value& self, Arguments& arguments) {
  const std::int64_t place = find_in(runtime, self, arguments, true);
  if (place < 0) value_error("substring not found");
  return place;
}

Value string_count(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("count", arguments, {"sub", "start", "end"}, 1);
  const Part part = part_of(text_of(self), values[1], values[2]);
  const std::string& wanted = string_argument("count", *values[0]);
  runtime.search(part.text.size(), wanted.size());
  if (part.inverted) return 0;
  if (wanted.empty()) return detail::count_characters(part.text) + 1;
  std::int64_t count = 0;
  for (std::size_t i = part.text.find(wanted); i != part.text.npos; i = part.text.find(wanted, i + wanted.size()))
    ++count;
  return count;
}

bool has_affix(std::string_view function, const Value& self, Arguments& arguments, bool at_start) {
  const auto values = bind(function, arguments, {"prefix", "start", "end"}, 1);
  const Part part = part_of(text_of(self), values[1], values[2]);
  const auto has = [&](const std::string& affix) {
    return !part.inverted && (at_start ? part.text.starts_with(affix) : part.text.ends_with(affix));
  };
  if (const auto* text = as<StringObject>(*values[0])) return has(text->text());
  const auto* tuple = as<SequenceObject>(*values[0]);
  if (!tuple || tuple->is_list())
    type_error("{} first arg must be str or a tuple of str, not {}", function, type_name(*values[0]));
  for (const Value& affix : tuple->items()) {
    if (!is_string(affix)) type_error("tuple for {} must only contain str, not {}", function, type_name(affix));
    if (has(text_of(affix))) return true;
  }
  return false;
}
Value starts_with(Runtime&, const Value& self, Arguments& arguments) {
  return has_affix("startswith", self, arguments, true);
}
Value ends_with(Runtime&, const Value& self, Arguments& arguments) {
  return has_affix("endswith", self, arguments, false);
}
Value remove_prefix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("removeprefix", arguments, {"prefix"}, 1);
  const std::string& prefix = string_argument("removeprefix", *values[0]);
  const std::string& text = text_of(self);
  return like(runtime, self, text.starts_with(prefix) ? text.substr(prefix.size()) : text);
}
Value remove_suffix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("removesuffix", arguments, {"suffix"}, 1);
  const std::string& suffix = string_argument("removesuffix", *values[0]);
  const std::string& text = text_of(self);
  return like(runtime, self, text.ends_with(suffix) ? text.substr(0, text.size() - suffix.size()) : text);
}

template <bool left, bool right>
Value strip_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  constexpr std::string_view kName = left && right ? "strip" : left ? "lstrip" : "rstrip";
  const auto values = bind(kName, arguments, {"chars"});
  if (values[0] && !is_none(*values[0]) && !is_string(*values[0])) type_error("{} arg must be None or str", kName);
  const auto chars = optional_text(kName, values[0]);
  if (chars) runtime.step(static_cast<std::int64_t>(chars->size() / 4));
  return like(runtime, self, std::string(strip(text_of(self), left, right, chars)));
}

// str.split with a separator, from the left.
std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, std::int64_t limit) {
  std::vector<std::string_view> parts;
  while (limit != 0) {
    const std::size_t place = text.find(separator);
    if (place == text.npos) break;
    parts.push_back(text.substr(0, place));
    text.remove_prefix(place + separator.size());
    --limit;
  }
  parts.push_back(text);
  return parts;
}
std::vector<std::string_view> rsplit_at(std::string_view text, std::string_view separator, std::int64_t limit) {
  std::vector<std::string_view> parts;
  while (limit != 0) {
    const std::size_t place = text.rfind(separator);
    if (place == text.npos) break;
    parts.push_back(text.substr(place + separator.size()));
    text = text.substr(0, place);
    --limit;
  }
  parts.push_back(text);
  std::ranges::reverse(parts);
  return parts;
}
// At runs of blanks; no part is empty.
std::vector<std::string_view> split_blanks(std::string_view text, std::int64_t limit) {
  std::vector<std::string_view> parts;
  text = strip(text, true, false);
  while (!text.empty()) {
    if (limit == 0) {
      parts.push_back(text);
      break;
    }
    std::size_t end = 0;
    std::size_t next = 0;
    while (end < text.size() && !is_space(next_character(text, next))) end = next;
    parts.push_back(text.substr(0, end));
    text = strip(text.substr(end), true, false);
    --limit;
  }
  return parts;
}
std::vector<std::string_view> rsplit_blanks(std::string_view text, std::int64_t limit) {
  if (limit < 0) return split_blanks(text, limit);
  std::vector<std::string_view> parts;
  text = strip(text, false, true);
  while (!text.empty()) {
    if (limit == 0) {
      parts.push_back(text);
      break;
    }
    std::size_t begin = 0;  // of the last word
    for (std::size_t i = 0; i < text.size();)
      if (is_space(next_character(text, i))) begin = i;
    parts.push_back(text.substr(begin));
    text = strip(text.substr(0, begin), false, true);
    --limit;
  }
  std::ranges::reverse(parts);
  return parts;
}

Value split_result(Runtime& runtime, const Value& self, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  for (const std::string_view part : parts) items.push_back(like(runtime, self, std::string(part)));
  return runtime.list(std::move(items));
}

template <bool from_right>
Value split_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  constexpr std::string_view kName = from_right ? "rsplit" : "split";
  const auto values = bind(kName, arguments, {"sep", "maxsplit"});
  const std::int64_t limit = std::max<std::int64_t>(integer_or(values[1], -1), -1);
  const std::string& text = text_of(self);
  // One pass over the text for each part from the right.
  runtime.step(1 + static_cast<std::int64_t>(text.size() / 8));
  const auto separator = optional_text(kName, values[0]);
  if (!separator) {
    if (from_right && limit > 0)
      runtime.step(std::min<std::int64_t>(limit, 1 << 20) * static_cast<std::int64_t>(text.size() / 16));
    return split_result(runtime, self, from_right ? rsplit_blanks(text, limit) : split_blanks(text, limit));
  }
  if (separator->empty()) value_error("empty separator");
  runtime.search(text.size(), separator->size());
  return split_result(runtime, self,
                      from_right ? rsplit_at(text, *separator, limit) : split_at(text, *separator, limit));
}

Value split_lines_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("splitlines", arguments, {"keepends"});
  return split_result(runtime, self, split_lines(text_of(self), truth_or(runtime, values[0], false)));
}

template <bool from_right>
Value partition_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("partition", arguments, {"sep"}, 1);
  const std::string& separator = string_argument("partition", *values[0]);
  if (separator.empty()) value_error("empty separator");
  const std::string& text = text_of(self);
  runtime.search(text.size(), separator.size());
  const std::size_t place = from_right ? text.rfind(separator) : text.find(separator);
  std::array<std::string, 3> parts;
  if (place == std::string::npos) {
    parts[from_right ? 2 : 0] = text;
  } else {
    parts = {text.substr(0, place), separator, text.substr(place + separator.size())};
  }
  std::vector<Value> items;
  for (std::string& part : parts) items.push_back(like(runtime, self, std::move(part)));
  return runtime.tuple(std::move(items));
}

Value replace_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("replace", arguments, {"old", "new", "count"}, 2);
  const auto argument = [&](const Value& value) {
    if (!is_string(value)) type_error("replace() argument must be str, not {}", type_name(value));
    return as<StringObject>(self)->markup() ? escaped(runtime, value) : text_of(value);
  };
  return like(runtime, self,
              replace(runtime, text_of(self), argument(*values[0]), argument(*values[1]), integer_or(values[2], -1)));
}

Value join_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("join", arguments, {"iterable"}, 1);
  return join(runtime, self, to_vector(runtime, *values[0]));
}

template <std::u32string (*convert)(std::u32string_view)>
Value convert_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("str", arguments, {});
  runtime.step(1 + static_cast<std::int64_t>(text_of(self).size() / 8));
  return like(runtime, self, to_utf8(convert(to_utf32(text_of(self)))));
}

// Whether there are characters, and `is` accepts them all.
template <bool (*is)(char32_t)>
Value all_method(Runtime&, const Value& self, Arguments& arguments) {
  bind("str", arguments, {});
  const std::u32string text = to_utf32(text_of(self));
  return !text.empty() && std::ranges::all_of(text, is);
}
Value is_ascii_method(Runtime&, const Value& self, Arguments&) { return is_ascii(text_of(self)); }
Value is_printable_method(Runtime&, const Value& self, Arguments&) {
  return std::ranges::all_of(to_utf32(text_of(self)), is_printable);
}
Value is_lower_method(Runtime&, const Value& self, Arguments&) { return is_lower(text_of(self)); }
Value is_upper_method(Runtime&, const Value& self, Arguments&) { return is_upper(text_of(self)); }
Value is_title_method(Runtime&, const Value& self, Arguments&) {
  bool any = false;
  bool in_word = false;
  for (const char32_t c : to_utf32(text_of(self))) {
    const bool starts = is_uppercase(c) || is_titlecase(c);
    if ((starts && in_word) || (is_lowercase(c) && !in_word)) return false;
    in_word = starts || is_lowercase(c);
    any = any || in_word;
  }
  return any;
}

char32_t fill_argument(const std::optional<Value>& value) {
  if (!value) return U' ';
  const std::u32string fill = is_string(*value) ? to_utf32(text_of(*value)) : std::u32string();
  if (fill.size() != 1) type_error("The fill character must be exactly one character long");
  return fill[0];
}

std::string repeated(char32_t c, std::int64_t count) {
  std::string text;
  for (std::int64_t i = 0; i < count; ++i) detail::append_utf8(c, text);
  return text;
}

Value center_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("center", arguments, {"width", "fillchar"}, 1);
  return center(runtime, self, integer_or(values[0], 0), fill_argument(values[1]));
}
template <bool left>
Value justify_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind(left ? "ljust" : "rjust", arguments, {"width", "fillchar"}, 1);
  const std::int64_t width = std::max<std::int64_t>(integer_or(values[0], 0), 0);
  check_width(runtime, width);
  const std::string& text = text_of(self);
  const std::string fill = repeated(fill_argument(values[1]), width - detail::count_characters(text));
  return like(runtime, self, left ? text + fill : fill + text);
}
Value zero_fill(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("zfill", arguments, {"width"}, 1);
  const std::int64_t width = std::max<std::int64_t>(integer_or(values[0], 0), 0);
  check_width(runtime, width);
  const std::string& text = text_of(self);
  const bool sign = text.starts_with('+') || text.starts_with('-');
  const std::string zeros = repeated(U'0', width - detail::count_characters(text));
  return like(runtime, self, text.substr(0, sign ? 1 : 0) + zeros + text.substr(sign ? 1 : 0));
}
Value expand_tabs(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("expandtabs", arguments, {"tabsize"});
  const std::int64_t size = integer_or(values[0], 8);
  std::string text;
  std::int64_t column = 0;
  for (const char32_t c : to_utf32(text_of(self))) {
    if (c == '\t') {
      const std::int64_t blanks = size > 0 ? size - column % size : 0;
      check_width(runtime, blanks);
      text.append(static_cast<std::size_t>(blanks), ' ');
      column += blanks;
    } else {
      detail::append_utf8(c, text);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
  }
  return like(runtime, self, std::move(text));
}

Value format_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  return brace_format(runtime, self, arguments);
}
Value format_map_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("format_map", arguments, {"mapping"}, 1);
  const auto* dict = as<DictObject>(*values[0]);
  if (!dict) type_error("format_map() argument must be a mapping, not {}", type_name(*values[0]));
  Arguments fields;
  for (const auto& [name, value] : dict->entries())
    if (is_string(name)) fields.named.emplace_back(text_of(name), value);
  return brace_format(runtime, self, fields);
}

Value sequence_count(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("count", arguments, {"value"}, 1);
  std::int64_t count = 0;
  for (const Value& item : as<SequenceObject>(self)->items())
    if (equals(runtime, item, *values[0])) ++count;
  return count;
}
Value sequence_index(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("index", arguments, {"value", "start", "stop"}, 1);
  const auto& items = as<SequenceObject>(self)->items();
  const auto size = static_cast<std::int64_t>(items.size());
  const auto place = [&](const std::optional<Value>& value, std::int64_t otherwise) {
    const std::int64_t index = integer_or(value, otherwise);
    return std::clamp<std::int64_t>(index < 0 ? index + size : index, 0, size);
  };
  for (std::int64_t i = place(values[1], 0); i < place(values[2], size); ++i)
    if (equals(runtime, items[static_cast<std::size_t>(i)], *values[0])) return i;
  if (as<SequenceObject>(self)->is_list()) value_error("{} is not in list", repr(runtime, *values[0]));
  value_error("tuple.index(x): x not in tuple");
}
Value copy_method(Runtime&, const Value& self, Arguments&) { return self; }

Value dict_get(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("get", arguments, {"key", "default"}, 1);
  require_hashable(runtime, *values[0]);
  const Value* found = as<DictObject>(self)->find(runtime, *values[0]);
  return found ? *found : values[1].value_or(Value());
}
template <ViewObject::Part part>
Value view_method(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("dict", arguments, {});
  runtime.allocate(sizeof(ViewObject));
  return Value(std::make_shared<ViewObject>(self, part));
}

struct Method {
  std::string_view name;
  NativeFunction function;  // null where the method is not supported
  bool changes = false;     // the object: not for templates
};

constexpr Method kStringMethods[] = {
    {"capitalize", convert_method<sao::jinja::capitalize>},
    {"center", center_method},
    {"count", string_count},
    {"endswith", ends_with},
    {"expandtabs", expand_tabs},
    {"find", find},
    {"format", format_method},
    {"format_map", format_map_method},
    {"index", string_index},
    {"isalnum", all_method<is_alnum>},
    {"isalpha", all_method<is_alpha>},
    {"isascii", is_ascii_method},
    {"isdecimal", all_method<is_decimal>},
    {"isdigit", all_method<is_digit>},
    {"islower", is_lower_method},
    {"isnumeric", all_method<is_numeric>},
    {"isprintable", is_printable_method},
    {"isspace", all_method<is_space>},
    {"istitle", is_title_method},
    {"isupper", is_upper_method},
    {"join", join_method},
    {"ljust", justify_method<true>},
    {"lower", convert_method<sao::jinja::lower>},
    {"lstrip", strip_method<true, false>},
    {"partition", partition_method<false>},
    {"removeprefix", remove_prefix},
    {"removesuffix", remove_suffix},
    {"replace", replace_method},
    {"rfind", rfind},
    {"rindex", string_rindex},
    {"rjust", justify_method<false>},
    {"rpartition", partition_method<true>},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"splitlines", split_lines_method},
    {"startswith", starts_with},
    {"strip", strip_method<true, true>},
    {"swapcase", convert_method<swap_case>},
    {"title", convert_method<title>},
    {"upper", convert_method<sao::jinja::upper>},
    {"zfill", zero_fill},
    {"casefold", nullptr},
    {"encode", nullptr},
    {"isidentifier", nullptr},
    {"maketrans", nullptr},
    {"translate", nullptr},
};
constexpr Method kListMethods[] = {
    {"count", sequence_count}, {"index", sequence_index},  {"copy", copy_method},     {"append", nullptr, true},
    {"clear", nullptr, true},  {"extend", nullptr, true},  {"insert", nullptr, true}, {"pop", nullptr, true},
    {"remove", nullptr, true}, {"reverse", nullptr, true}, {"sort", nullptr, true},
};
constexpr Method kTupleMethods[] = {{"count", sequence_count}, {"index", sequence_index}};
constexpr Method kDictMethods[] = {
    {"get", dict_get},
    {"items", view_method<ViewObject::Part::kItems>},
    {"keys", view_method<ViewObject::Part::kKeys>},
    {"values", view_method<ViewObject::Part::kValues>},
    {"copy", copy_method},
    {"fromkeys", nullptr},
    {"clear", nullptr, true},
    {"pop", nullptr, true},
    {"popitem", nullptr, true},
    {"setdefault", nullptr, true},
    {"update", nullptr, true},
};

template <std::size_t n>
std::optional<Value> method_of(Runtime& runtime, const Method (&methods)[n], const Value& self, std::string_view name) {
  const auto* method = std::ranges::find(methods, name, &Method::name);
  if (method == std::end(methods)) return std::nullopt;
  if (method->changes)
    return runtime.undefined(
        fmt::format("access to attribute {} of '{}' object is unsafe.", repr(name), type_name(self)),
        /*unsafe=*/true);
  if (!method->function) unsupported("the method {} of {} is not supported", repr(name), type_name(self));
  runtime.allocate(sizeof(FunctionObject));
  return Value(std::make_shared<FunctionObject>("builtin_function_or_method", method->name, method->function, self));
}

}  // namespace

std::optional<Value> string_attribute(Runtime& runtime, const Value& self, std::string_view name) {
  return method_of(runtime, kStringMethods, self, name);
}
std::optional<Value> sequence_attribute(Runtime& runtime, const Value& self, std::string_view name) {
  return as<SequenceObject>(self)->is_list() ? method_of(runtime, kListMethods, self, name)
                                             : method_of(runtime, kTupleMethods, self, name);
}
std::optional<Value> dict_attribute(Runtime& runtime, const Value& self, std::string_view name) {
  return method_of(runtime, kDictMethods, self, name);
}

std::string_view strip(std::string_view text, bool left, bool right, std::optional<std::string_view> chars) {
  std::u32string set = chars ? to_utf32(*chars) : std::u32string();
  std::ranges::sort(set);
  const auto goes = [&](char32_t c) { return chars ? std::ranges::binary_search(set, c) : is_space(c); };
  while (left && !text.empty()) {
    std::size_t next = 0;
    if (!goes(next_character(text, next))) break;
    text.remove_prefix(next);
  }
  while (right && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    std::size_t next = begin;
    if (!goes(next_character(text, next))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t end = i;
    const char32_t c = next_character(text, i);
    if (!is_line_break(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(begin, (keep_ends ? i : end) - begin));
    begin = i;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string replace(Runtime& runtime, std::string_view text, std::string_view old, std::string_view with,
                    std::int64_t count) {
  std::string result;
  runtime.search(text.size(), old.size());
  count = std::max<std::int64_t>(count, -1);
  const auto put = [&](std::string_view piece) {
    runtime.allocate(piece.size());
    result += piece;
  };
  std::size_t i = 0;
  if (old.empty()) {
    // Between all characters, and at both ends.
    for (; count != 0; --count) {
      put(with);
      if (i == text.size()) return result;
      const std::size_t begin = i;
      next_character(text, i);
      result += text.substr(begin, i - begin);
    }
  }
  for (; count != 0 && !old.empty(); --count) {
    const std::size_t place = text.find(old, i);
    if (place == text.npos) break;
    result += text.substr(i, place - i);
    put(with);
    i = place + old.size();
  }
  return result += text.substr(i);
}

Value join(Runtime& runtime, const Value& separator, const std::vector<Value>& items) {
  const auto* string = as<StringObject>(separator);
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += string->text();
    if (!is_string(items[i]) && !string->markup())
      type_error("sequence item {}: expected str instance, {} found", i, type_name(items[i]));
    text += string->markup() ? escaped(runtime, items[i]) : text_of(items[i]);
    runtime.allocate(string->text().size() + (is_string(items[i]) ? text_of(items[i]).size() : 0));
  }
  return like(runtime, separator, std::move(text));
}

Value center(Runtime& runtime, const Value& text, std::int64_t width, char32_t fill) {
  check_width(runtime, width);
  const std::int64_t margin = std::max<std::int64_t>(width, 0) - detail::count_characters(text_of(text));
  if (margin <= 0) return text;
  const std::int64_t left = margin / 2 + (margin & width & 1);  // as CPython has it
  return like(runtime, text, repeated(fill, left) + text_of(text) + repeated(fill, margin - left));
}

Value upper(Runtime& runtime, const Value& text) {
  Arguments none;
  return convert_method<sao::jinja::upper>(runtime, text, none);
}
Value lower(Runtime& runtime, const Value& text) {
  Arguments none;
  return convert_method<sao::jinja::lower>(runtime, text, none);
}
Value capitalize(Runtime& runtime, const Value& text) {
  Arguments none;
  return convert_method<sao::jinja::capitalize>(runtime, text, none);
}

bool is_lower(std::string_view text) {
  const std::u32string characters = to_utf32(text);
  return std::ranges::any_of(characters, is_lowercase) &&
         std::ranges::none_of(characters, [](char32_t c) { return is_uppercase(c) || is_titlecase(c); });
}
bool is_upper(std::string_view text) {
  const std::u32string characters = to_utf32(text);
  return std::ranges::any_of(characters, is_uppercase) &&
         std::ranges::none_of(characters, [](char32_t c) { return is_lowercase(c) || is_titlecase(c); });
}

std::string_view before_last(std::string_view text, std::string_view separator) {
  const std::size_t place = text.rfind(separator);
  return place == text.npos ? text : text.substr(0, place);
}

}  // namespace sao::jinja
