// SPDX-License-Identifier: Apache-2.0
// Follows: jinja2/filters.py.
#include "jinja/filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "jinja/format.h"
#include "jinja/methods.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

// soft_str: strings stay what they are.
Value soft_string(Runtime& runtime, const Value& value) {
  return is_string(value) ? value : runtime.string(str(runtime, value));
}
const std::string& text_of(const Value& string) { return as<StringObject>(string)->text(); }

Value lower_case(Runtime& runtime, const Value& value) { return is_string(value) ? lower(runtime, value) : value; }

// --- look-ups by a path such as "function.name" or "0.text"

std::vector<Value> path_parts(Runtime& runtime, const std::optional<Value>& attribute) {
  if (!attribute || is_none(*attribute)) return {};
  const auto* text = as<StringObject>(*attribute);
  if (!text) return {*attribute};
  std::vector<Value> parts;
  std::string_view rest = text->text();
  while (true) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    std::int64_t number = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), number);
    const bool is_number =
        !part.empty() && part[0] != '-' && parsed.ec == std::errc() && parsed.ptr == part.data() + part.size();
    parts.push_back(is_number ? Value(number) : runtime.string(std::string(part)));
    if (dot == rest.size()) return parts;
    rest.remove_prefix(dot + 1);
  }
}

Value look_up(Runtime& runtime, Value item, const std::vector<Value>& parts,
              const std::optional<Value>& otherwise = {}) {
  for (const Value& part : parts) {
    item = get_item(runtime, item, part);
    if (otherwise && !is_none(*otherwise) && is_undefined(item)) item = *otherwise;
  }
  return item;
}

// What items are compared by: an attribute of them, strings without regard to case unless asked for.
class KeyOf {
 public:
  KeyOf(Runtime& runtime, const std::optional<Value>& attribute, bool case_sensitive,
        std::optional<Value> otherwise = {})
      : runtime_(runtime),
        parts_(path_parts(runtime, attribute)),
        case_sensitive_(case_sensitive),
        otherwise_(std::move(otherwise)) {}
  Value operator()(const Value& item) const {
    const Value key = look_up(runtime_, item, parts_, otherwise_);
    return case_sensitive_ ? key : lower_case(runtime_, key);
  }

 private:
  Runtime& runtime_;
  std::vector<Value> parts_;
  bool case_sensitive_;
  std::optional<Value> otherwise_;
};

// Python's sorted(): stable, also when reversed.
template <class Key>
std::vector<Value> sorted(Runtime& runtime, const std::vector<Value>& items, const Key& key, bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) keyed.emplace_back(key(item), item);
  runtime.allocate(keyed.size() * 2 * sizeof(Value));
  std::ranges::stable_sort(keyed, [&](const auto& a, const auto& b) {
    return reverse ? compare(runtime, "<", b.first, a.first) : compare(runtime, "<", a.first, b.first);
  });
  std::vector<Value> result;
  for (auto& [unused, item] : keyed) result.push_back(std::move(item));
  return result;
}

// An iterator that calls a function for each step; what the function refers to has to be in it.
template <class Function>
class FunctionIterator : public Iterator {
 public:
  explicit FunctionIterator(Function function) : function_(std::move(function)) {}
  std::optional<Value> next(Runtime& runtime) override {
    runtime.step();
    return function_(runtime);
  }

 private:
  Function function_;
};
template <class Function>
Value generator(Runtime& runtime, Function function) {
  return runtime.iterator("generator", std::make_unique<FunctionIterator<Function>>(std::move(function)));
}
// The items of a vector that is made when the first one is asked for.
template <class Make>
Value generator_of(Runtime& runtime, Make make) {
  return generator(runtime,
                   [make = std::move(make), items = std::optional<std::vector<Value>>(),
                    next = std::size_t{0}](Runtime& rt) mutable -> std::optional<Value> {
                     if (!items) items = make(rt);
                     if (next == items->size()) return std::nullopt;
                     return (*items)[next++];
                   });
}

Value call_by_name(Runtime& runtime, std::string_view what, const Value& name, const Value& item, Arguments arguments) {
  const bool is_filter = what == "filter";
  const auto* text = as<StringObject>(name);
  const NativeFunction function = !text ? nullptr : is_filter ? find_filter(text->text()) : find_test(text->text());
  if (!function) fail("TemplateRuntimeError", fmt::format("No {} named {}.", what, repr(runtime, name)));
  runtime.read(item);
  return function(runtime, item, arguments);
}

// --- the filters, in the order of their names

Value abs_filter(Runtime&, const Value& self, Arguments&) {
  if (const auto integer = as_integer(self)) return *integer < 0 ? negative(self) : Value(*integer);
  if (const auto number = as_float(self)) return std::fabs(*number);
  type_error("bad operand type for abs(): '{}'", type_name(self));
}

Value attr(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_attr", arguments, {"name"}, 1);
  const auto* name = as<StringObject>(*values[0]);
  if (!name) type_error("attribute name must be string, not '{}'", type_name(*values[0]));
  // As get_attribute, but without looking for an item.
  if (as<DictObject>(self) && as<DictObject>(self)->find(name->text()) &&
      !dict_attribute(runtime, self, name->text()) && !name->text().starts_with("__"))
    return runtime.undefined(fmt::format("{} has no attribute {}", repr(type_description(self)), repr(name->text())));
  return get_attribute(runtime, self, name->text());
}

Value batch(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_batch", arguments, {"linecount", "fill_with"}, 1);
  const std::int64_t size = integer_or(values[0], 0);
  const auto items = std::shared_ptr<Iterator>(iterate(self));
  return generator(runtime,
                   [=, held = std::optional<Value>(), ended = false](Runtime& rt) mutable -> std::optional<Value> {
                     // An item is fetched before the list in front of it goes out.
                     std::vector<Value> list;
                     if (held) list.push_back(*std::exchange(held, std::nullopt));
                     while (!ended) {
                       auto item = items->next(rt);
                       if (!item) {
                         ended = true;
                       } else if (static_cast<std::int64_t>(list.size()) == size) {
                         held = std::move(item);
                         return rt.list(std::move(list));
                       } else {
                         rt.allocate(sizeof(Value));
                         list.push_back(*std::move(item));
                       }
                     }
                     if (list.empty()) return std::nullopt;
                     while (values[1] && !is_none(*values[1]) && static_cast<std::int64_t>(list.size()) < size) {
                       rt.allocate(sizeof(Value));
                       list.push_back(*values[1]);
                     }
                     return rt.list(std::move(list));
                   });
}

Value capitalize_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_capitalize", arguments, {});
  return capitalize(runtime, soft_string(runtime, self));
}

Value center_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_center", arguments, {"width"});
  return center(runtime, soft_string(runtime, self), integer_or(values[0], 80));
}

Value default_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_default", arguments, {"default_value", "boolean"});
  const bool missing = is_undefined(self) || (truth_or(runtime, values[1], false) && !truth(runtime, self));
  return missing ? values[0].value_or(runtime.string("")) : self;
}

Value dictsort(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = values[1] ? str(runtime, *values[1]) : "key";
  if (by != "key" && by != "value") fail("FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
  Arguments none;
  const Value items = call(runtime, get_attribute(runtime, self, "items"), none);
  const bool case_sensitive = truth_or(runtime, values[0], false);
  const auto key = [&](const Value& item) {
    const Value& part = as<SequenceObject>(item)->items()[by == "key" ? 0 : 1];
    return case_sensitive ? part : lower_case(runtime, part);
  };
  return runtime.list(sorted(runtime, to_vector(runtime, items), key, truth_or(runtime, values[2], false)));
}

Value escape(Runtime& runtime, const Value& self, Arguments&) {
  return runtime.string(escaped(runtime, self), /*markup=*/true);
}

// int() of a number; nothing for those that are not finite.
std::optional<std::int64_t> truncated(double number) {
  if (!std::isfinite(number)) return std::nullopt;
  if (!(std::fabs(number) < 9.2e18)) unsupported("integers of more than 64 bits are not supported");
  return static_cast<std::int64_t>(number);
}

Value file_size_format(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_filesizeformat", arguments, {"binary"});
  Arguments none;
  const auto* float_filter_name = "float";
  const double bytes = *as_float(find_filter(float_filter_name)(runtime, self, none));
  const bool is_binary = truth_or(runtime, values[0], false);
  const double base = is_binary ? 1024 : 1000;
  if (bytes == 1) return "1 Byte";
  if (bytes < base) return fmt::format("{} Bytes", truncated(bytes).value_or(0));
  const std::string_view letters = is_binary ? "KMGTPEZY" : "kMGTPEZY";
  double unit = base;
  for (const char letter : letters) {
    unit *= base;
    if (bytes < unit || letter == letters.back())
      return fmt::format("{} {}{}B", fixed(base * bytes / unit, 1), letter, is_binary ? "i" : "");
  }
  return {};
}

Value first(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_first", arguments, {});
  auto item = iterate(self)->next(runtime);
  return item ? *std::move(item) : runtime.undefined("No first item, sequence was empty.");
}

// The number that a text is, as Python's float() reads it.
std::optional<double> parse_float(std::string_view text) {
  text = strip(text, true, true);
  std::string digits;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto is_ascii_digit = [&](std::size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '9'; };
    if (text[i] != '_') {
      digits += text[i];
    } else if (i == 0 || !is_ascii_digit(i - 1) || !is_ascii_digit(i + 1)) {
      return std::nullopt;
    }
  }
  std::string_view number = digits;
  const bool is_negative = number.starts_with('-');
  if (is_negative || number.starts_with('+')) number.remove_prefix(1);
  std::string name(number);
  std::ranges::transform(name, name.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  double value = 0;
  if (name == "inf" || name == "infinity") {
    value = HUGE_VAL;
  } else if (name == "nan") {
    value = std::nan("");
  } else {
    if (number.empty() || !(number[0] == '.' || (number[0] >= '0' && number[0] <= '9'))) return std::nullopt;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), value);
    if (parsed.ptr != number.data() + number.size()) return std::nullopt;
    if (parsed.ec == std::errc::result_out_of_range) value = std::strtod(std::string(number).c_str(), nullptr);
    if (parsed.ec == std::errc::invalid_argument) return std::nullopt;
  }
  return is_negative ? -value : value;
}

// What Python's int(text, base) reads; base 0 takes the base from the prefix.
std::optional<std::int64_t> parse_integer(std::string_view text, std::int64_t base) {
  text = strip(text, true, true);
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  const auto prefix = [&](char letter) { return text.size() > 1 && text[0] == '0' && (text[1] | 0x20) == letter; };
  for (const auto& [letter, size] : {std::pair{'x', 16}, {'o', 8}, {'b', 2}}) {
    if (prefix(letter) && (base == size || base == 0)) {
      base = size;
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
      break;
    }
  }
  if (base == 0) {
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != text.npos) return std::nullopt;
    base = 10;
  }
  if (base < 2 || base > 36) return std::nullopt;
  std::string digits;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits += text[i];
    } else if (i == 0 || i + 1 == text.size() || text[i - 1] == '_') {
      return std::nullopt;
    }
  }
  if (digits.empty() || digits[0] == '-') return std::nullopt;
  std::int64_t value = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  if (parsed.ec != std::errc()) unsupported("integers of more than 64 bits are not supported");
  return is_negative ? -value : value;
}

Value float_filter(Runtime&, const Value& self, Arguments& arguments) {
  const auto values = bind("do_float", arguments, {"default"});
  const Value otherwise = values[0].value_or(Value(0.0));
  if (const auto number = as_float(self)) return *number;
  if (const auto* undefined = as<UndefinedObject>(self)) undefined->fail_undefined();
  const auto* text = as<StringObject>(self);
  const auto number = text ? parse_float(text->text()) : std::nullopt;
  return number ? Value(*number) : otherwise;
}

Value force_escape(Runtime& runtime, const Value& self, Arguments&) {
  return runtime.string(escaped(runtime, runtime.string(str(runtime, self))), /*markup=*/true);
}

Value format_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty())
    fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  Value values = runtime.tuple(arguments.positional);
  if (!arguments.named.empty()) {
    DictBuilder builder;
    for (auto& [name, value] : arguments.named) builder.set(name, std::move(value));
    values = runtime.dict(builder.take());
  }
  return percent_format(runtime, soft_string(runtime, self), values);
}

Value group_by(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const bool case_sensitive = truth_or(runtime, values[2], false);
  const KeyOf key(runtime, values[0], case_sensitive, values[1]);
  const KeyOf shown_key(runtime, values[0], true, values[1]);
  std::vector<Value> groups;
  std::vector<Value> group;
  std::optional<Value> group_key;
  const auto finish = [&] {
    if (group.empty()) return;
    Value shown = shown_key(group[0]);
    groups.push_back(
        runtime.sequence(SequenceObject::Kind::kGroup, {std::move(shown), runtime.list(std::exchange(group, {}))}));
  };
  for (Value& item : sorted(runtime, to_vector(runtime, self), key, false)) {
    Value item_key = key(item);
    if (group_key && !equals(runtime, *group_key, item_key)) finish();
    group_key = std::move(item_key);
    group.push_back(std::move(item));
  }
  finish();
  return runtime.list(std::move(groups));
}

Value indent(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_indent", arguments, {"width", "first", "blank"});
  std::string blanks;
  if (values[0] && is_string(*values[0])) {
    blanks = text_of(*values[0]);
  } else {
    const auto width = static_cast<std::size_t>(std::max<std::int64_t>(integer_or(values[0], 4), 0));
    runtime.allocate(width);
    blanks.assign(width, ' ');
  }
  const bool indent_first = truth_or(runtime, values[1], false);
  const bool indent_blank = truth_or(runtime, values[2], false);
  if (!is_string(self)) {
    if (const auto* undefined = as<UndefinedObject>(self)) undefined->fail_undefined();
    const auto* sequence = as<SequenceObject>(self);
    if (sequence && sequence->is_list()) fail("AttributeError", "'list' object has no attribute 'splitlines'");
    type_error("unsupported operand type(s) for +=: '{}' and 'str'", type_name(self));
  }
  const Value text = binary(runtime, "+", self, runtime.string("\n"));
  const auto* string = as<StringObject>(text);
  std::string result;
  const auto lines = split_lines(string->text());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) result += '\n';
    if (i == 0 ? indent_first : indent_blank || !lines[i].empty()) {
      runtime.allocate(blanks.size());
      result += blanks;
    }
    result += lines[i];
  }
  return runtime.string(std::move(result), string->markup());
}

Value int_filter(Runtime&, const Value& self, Arguments& arguments) {
  const auto values = bind("do_int", arguments, {"default", "base"});
  const Value otherwise = values[0].value_or(Value(0));
  if (const auto integer = as_integer(self)) return *integer;
  std::optional<std::int64_t> result;
  if (const auto number = as_float(self)) {
    if (std::isinf(*number)) fail("OverflowError", "cannot convert float infinity to integer");
    result = truncated(*number);
  } else if (const auto* text = as<StringObject>(self)) {
    result = parse_integer(text->text(), integer_or(values[1], 10));
    if (!result) {
      if (const auto real = parse_float(text->text())) result = truncated(*real);
    }
  } else if (const auto* undefined = as<UndefinedObject>(self)) {
    undefined->fail_undefined();
  }
  return result ? Value(*result) : otherwise;
}

Value items(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_items", arguments, {});
  return generator_of(runtime, [self](Runtime& rt) -> std::vector<Value> {
    if (is_undefined(self)) return {};
    if (!as<DictObject>(self)) type_error("Can only get item pairs from a mapping.");
    Arguments none;
    return to_vector(rt, call(rt, get_attribute(rt, self, "items"), none));
  });
}

Value join_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_join", arguments, {"d", "attribute"});
  const Value separator = runtime.string(values[0] ? str(runtime, *values[0]) : "");
  const auto parts = path_parts(runtime, values[1]);
  std::vector<Value> texts;
  for (const Value& item : to_vector(runtime, self)) {
    runtime.step();
    const Value value = parts.empty() ? item : look_up(runtime, item, parts);
    texts.push_back(runtime.string(str(runtime, value)));
  }
  return join(runtime, separator, texts);
}

// The items from the last to the first; nothing where Python's reversed() does not know how.
std::optional<std::vector<Value>> reversed_items(Runtime& runtime, const Value& value) {
  if (!is_string(value) && !as<SequenceObject>(value) && !as<DictObject>(value) && !as<ViewObject>(value) &&
      !as<RangeObject>(value) && !is_undefined(value))
    return std::nullopt;
  std::vector<Value> items = to_vector(runtime, value);
  std::ranges::reverse(items);
  return items;
}

Value last(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_last", arguments, {});
  if (const auto* sequence = as<SequenceObject>(self); sequence && !sequence->items().empty())
    return sequence->items().back();
  const auto items = reversed_items(runtime, self);
  if (!items) type_error("'{}' object is not reversible", type_name(self));
  return items->empty() ? runtime.undefined("No last item, sequence was empty.") : items->front();
}

Value length_filter(Runtime& runtime, const Value& self, Arguments&) { return length(runtime, self); }

Value list_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_list", arguments, {});
  return runtime.list(to_vector(runtime, self));
}

Value lower_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_lower", arguments, {});
  return lower(runtime, soft_string(runtime, self));
}

// What map does to an item.
using Transform = std::function<Value(Runtime&, const Value&)>;
Transform map_transform(Runtime& runtime, const Arguments& arguments) {
  const auto named = [&](std::string_view name) {
    return std::ranges::find(arguments.named, name, [](const auto& field) { return field.first; });
  };
  if (arguments.positional.empty() && named("attribute") != arguments.named.end()) {
    for (const auto& [name, value] : arguments.named)
      if (name != "attribute" && name != "default")
        fail("FilterArgumentError", fmt::format("Unexpected keyword argument {}", repr(name)));
    std::optional<Value> otherwise;
    if (named("default") != arguments.named.end()) otherwise = named("default")->second;
    return [parts = path_parts(runtime, named("attribute")->second), otherwise](Runtime& rt, const Value& item) {
      return look_up(rt, item, parts, otherwise);
    };
  }
  if (arguments.positional.empty()) fail("FilterArgumentError", "map requires a filter argument");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  return [name = arguments.positional[0], rest](Runtime& rt, const Value& item) {
    return call_by_name(rt, "filter", name, item, rest);
  };
}

// Arguments are looked at when the first item is asked for, and not at all where there are no items, as in Jinja2.
Value map(Runtime& runtime, const Value& self, Arguments& arguments) {
  return generator(runtime,
                   [self, arguments, transform = Transform(), rest = std::shared_ptr<Iterator>(),
                    started = false](Runtime& rt) mutable -> std::optional<Value> {
                     if (!started) {
                       started = true;
                       if (!truth(rt, self)) return std::nullopt;
                       transform = map_transform(rt, arguments);
                       rest = iterate(self);
                     }
                     auto item = rest ? rest->next(rt) : std::nullopt;
                     return item ? std::optional(transform(rt, *item)) : std::nullopt;
                   });
}

Value extreme(Runtime& runtime, const Value& self, Arguments& arguments, std::string_view op) {
  const auto values = bind(op == "<" ? "do_min" : "do_max", arguments, {"case_sensitive", "attribute"});
  const KeyOf key(runtime, values[1], truth_or(runtime, values[0], false));
  std::optional<Value> best;
  std::optional<Value> best_key;
  const auto items = iterate(self);
  while (auto item = items->next(runtime)) {
    Value item_key = key(*item);
    if (best && !compare(runtime, op, item_key, *best_key)) continue;
    best = std::move(item);
    best_key = std::move(item_key);
  }
  return best ? *best : runtime.undefined("No aggregated item, sequence was empty.");
}
Value min_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  return extreme(runtime, self, arguments, "<");
}
Value max_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  return extreme(runtime, self, arguments, ">");
}

// select, reject, selectattr, rejectattr
template <bool wanted, bool by_attribute>
Value select(Runtime& runtime, const Value& self, Arguments& arguments) {
  return generator(runtime,
                   [self, arguments, parts = std::vector<Value>(), rest = std::shared_ptr<Iterator>(),
                    started = false](Runtime& rt) mutable -> std::optional<Value> {
                     constexpr std::size_t kOffset = by_attribute ? 1 : 0;
                     auto& positional = arguments.positional;
                     if (!started) {
                       started = true;
                       if (!truth(rt, self)) return std::nullopt;
                       if (by_attribute && positional.empty())
                         fail("FilterArgumentError", "Missing parameter for attribute name");
                       if (by_attribute) parts = path_parts(rt, positional[0]);
                       rest = iterate(self);
                     }
                     while (auto item = rest ? rest->next(rt) : std::nullopt) {
                       Value tested = by_attribute ? look_up(rt, *item, parts) : *item;
                       if (positional.size() > kOffset) {
                         const auto more = positional.begin() + static_cast<std::ptrdiff_t>(kOffset) + 1;
                         tested = call_by_name(rt, "test", positional[kOffset], tested,
                                               {.positional = {more, positional.end()}, .named = arguments.named});
                       }
                       if (truth(rt, tested) == wanted) return item;
                     }
                     return std::nullopt;
                   });
}

Value replace_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_replace", arguments, {"old", "new", "count"}, 2);
  const bool all = !values[2] || is_none(*values[2]);
  return runtime.string(replace(runtime, str(runtime, self), str(runtime, *values[0]), str(runtime, *values[1]),
                                all ? -1 : integer_or(values[2], -1)));
}

Value reverse(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_reverse", arguments, {});
  if (const auto* text = as<StringObject>(self)) {
    std::u32string characters = to_utf32(text->text());
    std::ranges::reverse(characters);
    return runtime.string(to_utf8(characters), text->markup());
  }
  auto items = reversed_items(runtime, self);
  if (!items) {
    const auto* object = std::get_if<Value::Pointer>(&self.data());
    if (!object || !(*object)->iterate(self)) fail("FilterArgumentError", "argument must be iterable");
    items = to_vector(runtime, self);
    std::ranges::reverse(*items);
    return runtime.list(*std::move(items));
  }
  const auto* sequence = as<SequenceObject>(self);
  return runtime.iterator(sequence && sequence->is_list() ? "list_reverseiterator" : "reversed",
                          std::make_unique<FunctionIterator<std::function<std::optional<Value>(Runtime&)>>>(
                              [list = *std::move(items), next = std::size_t{0}](Runtime&) mutable {
                                return next < list.size() ? std::optional(list[next++]) : std::nullopt;
                              }));
}

// Python's round(), to even at the middle of the exact value.
double rounded(double value, std::int64_t precision) {
  if (!std::isfinite(value)) return value;
  if (precision > 300) return value;
  if (precision < -310) return 0 * value;
  if (precision >= 0) return std::strtod(fixed(value, static_cast<int>(precision)).c_str(), nullptr);
  // Before the point: through the digits too.
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(value / scale) * scale;
}

Value round_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_round", arguments, {"precision", "method"});
  const std::int64_t precision = integer_or(values[0], 0);
  const std::string method = values[1] ? str(runtime, *values[1]) : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    fail("FilterArgumentError", "method must be common, ceil or floor");
  const auto number = as_float(self);
  if (!number) {
    if (const auto* undefined = as<UndefinedObject>(self)) undefined->fail_undefined();
    type_error("type {} doesn't define __round__ method", type_name(self));
  }
  const auto integer = as_integer(self);
  if (method == "common") {
    if (!integer) return rounded(*number, precision);
    if (precision >= 0) return *integer;
    return *truncated(rounded(*number, precision));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (!std::isfinite(*number)) fail("OverflowError", "cannot convert float infinity to integer");
  const double scaled = *number * scale;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value safe(Runtime& runtime, const Value& self, Arguments&) {
  return runtime.string(str(runtime, self), /*markup=*/true);
}

Value slice(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_slice", arguments, {"slices", "fill_with"}, 1);
  const std::int64_t slices = integer_or(values[0], 0);
  return generator(runtime,
                   [self, slices, fill = values[1], list = std::optional<std::vector<Value>>(),
                    number = std::int64_t{0}](Runtime& rt) mutable -> std::optional<Value> {
                     if (!list) {
                       list = to_vector(rt, self);
                       if (slices == 0) fail("ZeroDivisionError", "integer division or modulo by zero");
                     }
                     if (number >= slices) return std::nullopt;
                     const auto size = static_cast<std::int64_t>(list->size());
                     const std::int64_t each = size / slices;
                     const std::int64_t extra = size % slices;
                     const std::int64_t begin = number * each + std::min(number, extra);
                     const std::int64_t end = begin + each + (number < extra ? 1 : 0);
                     std::vector<Value> part(list->begin() + begin, list->begin() + end);
                     if (fill && !is_none(*fill) && number >= extra) part.push_back(*fill);
                     ++number;
                     return rt.list(std::move(part));
                   });
}

Value sort(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = truth_or(runtime, values[1], false);
  // Several attributes with commas between.
  std::vector<KeyOf> keys;
  if (values[2] && is_string(*values[2])) {
    std::string_view rest = text_of(*values[2]);
    while (true) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      keys.emplace_back(runtime, runtime.string(std::string(rest.substr(0, comma))), case_sensitive);
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    keys.emplace_back(runtime, values[2], case_sensitive);
  }
  const auto key = [&](const Value& item) {
    std::vector<Value> parts;
    for (const KeyOf& part : keys) parts.push_back(part(item));
    return runtime.list(std::move(parts));
  };
  return runtime.list(sorted(runtime, to_vector(runtime, self), key, truth_or(runtime, values[0], false)));
}

Value string_filter(Runtime& runtime, const Value& self, Arguments&) { return soft_string(runtime, self); }

Value sum(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_sum", arguments, {"attribute", "start"});
  const auto parts = path_parts(runtime, values[0]);
  Value total = values[1].value_or(Value(0));
  if (is_string(total)) type_error("sum() can't sum strings [use ''.join(seq) instead]");
  const auto items = iterate(self);
  while (const auto item = items->next(runtime))
    total = binary(runtime, "+", total, parts.empty() ? *item : look_up(runtime, *item, parts));
  return total;
}

// The first letter of each word large and the others small, where words begin after blanks and ( [ { < -.
Value title_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_title", arguments, {});
  const Value text = soft_string(runtime, self);
  const std::u32string characters = to_utf32(text_of(text));
  const auto separates = [](char32_t c) {
    return is_space(c) || c == U'-' || c == U'(' || c == U'{' || c == U'[' || c == U'<';
  };
  std::u32string result;
  for (std::size_t i = 0; i < characters.size();) {
    std::size_t end = i;
    while (end < characters.size() && separates(characters[end]) == separates(characters[i])) ++end;
    const std::u32string_view word = std::u32string_view(characters).substr(i, end - i);
    result += upper(word.substr(0, 1)) + lower(word.substr(1));
    i = end;
  }
  return runtime.string(to_utf8(result), as<StringObject>(text)->markup());
}

// As transformers sets it up: plain json.dumps.
Value to_json_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{.ascii_only = truth_or(runtime, values[0], false), .sort_keys = truth_or(runtime, values[3], false)};
  if (values[1] && !is_none(*values[1])) {
    if (is_string(*values[1])) {
      style.indent = text_of(*values[1]);
    } else {
      const auto width = static_cast<std::size_t>(std::max<std::int64_t>(integer_or(values[1], 0), 0));
      runtime.allocate(width);
      style.indent = std::string(width, ' ');
    }
    style.item_separator = ",";
  }
  if (values[2] && !is_none(*values[2])) {
    const auto separators = to_vector(runtime, *values[2]);
    if (separators.size() != 2 || !is_string(separators[0]) || !is_string(separators[1]))
      value_error("separators: expected two strings");
    style.item_separator = text_of(separators[0]);
    style.key_separator = text_of(separators[1]);
  }
  return runtime.string(to_json(runtime, self, style));
}

Value trim(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_trim", arguments, {"chars"});
  std::optional<std::string_view> chars;
  if (values[0] && !is_none(*values[0])) {
    if (!is_string(*values[0])) type_error("strip arg must be None or str");
    chars = text_of(*values[0]);
  }
  const Value text = soft_string(runtime, self);
  if (chars) runtime.step(static_cast<std::int64_t>(chars->size() / 4));
  return runtime.string(std::string(strip(text_of(text), true, true, chars)), as<StringObject>(text)->markup());
}

Value truncate(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_truncate", arguments, {"length", "killwords", "end", "leeway"});
  const std::int64_t size = integer_or(values[0], 255);
  const bool kill_words = truth_or(runtime, values[1], false);
  const std::u32string end = to_utf32(values[2] ? str(runtime, *values[2]) : "...");
  const std::int64_t leeway = values[3] && !is_none(*values[3]) ? integer_or(values[3], 5) : 5;
  const auto end_size = static_cast<std::int64_t>(end.size());
  if (size < end_size) fail("AssertionError", fmt::format("expected length >= {}, got {}", end_size, size));
  if (leeway < 0) fail("AssertionError", fmt::format("expected leeway >= 0, got {}", leeway));
  if (length(runtime, self) - size <= leeway) return self;
  const Value start = get_slice(runtime, self, {}, size - end_size, {});
  if (!is_string(start)) type_error("can only concatenate list (not \"str\") to list");
  const std::string_view kept = text_of(start);
  return runtime.string(std::string(kill_words ? kept : before_last(kept, " ")) + to_utf8(end));
}

Value unique(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("do_unique", arguments, {"case_sensitive", "attribute"});
  const bool case_sensitive = truth_or(runtime, values[0], false);
  return generator(runtime,
                   [self, key = KeyOf(runtime, values[1], case_sensitive), rest = std::shared_ptr<Iterator>(),
                    seen = std::vector<Value>(), started = false](Runtime& rt) mutable -> std::optional<Value> {
                     if (!started) rest = iterate(self);
                     started = true;
                     while (auto item = rest ? rest->next(rt) : std::nullopt) {
                       const Value item_key = key(*item);
                       require_hashable(rt, item_key);
                       if (std::ranges::any_of(seen, [&](const Value& other) { return equals(rt, other, item_key); }))
                         continue;
                       rt.allocate(sizeof(Value));
                       seen.push_back(item_key);
                       return item;
                     }
                     return std::nullopt;
                   });
}

Value upper_filter(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_upper", arguments, {});
  return upper(runtime, soft_string(runtime, self));
}

std::string url_quoted(Runtime& runtime, const Value& value, bool for_query) {
  std::string quoted;
  for (const char c : str(runtime, value)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !for_query);
    if (plain) {
      quoted += c;
    } else if (c == ' ' && for_query) {
      quoted += '+';
    } else {
      quoted += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  runtime.allocate(quoted.size());
  return quoted;
}

Value url_encode(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_urlencode", arguments, {});
  const auto* object = std::get_if<Value::Pointer>(&self.data());
  if (is_string(self) || !object || !(*object)->iterate(self)) return runtime.string(url_quoted(runtime, self, false));
  Arguments none;
  const Value pairs = as<DictObject>(self) ? call(runtime, get_attribute(runtime, self, "items"), none) : self;
  std::string query;
  for (const Value& pair : to_vector(runtime, pairs)) {
    const auto parts = to_vector(runtime, pair);
    if (parts.size() != 2) value_error("not enough values to unpack (expected 2, got {})", parts.size());
    if (!query.empty()) query += '&';
    query += url_quoted(runtime, parts[0], true) + "=" + url_quoted(runtime, parts[1], true);
  }
  return runtime.string(std::move(query));
}

Value word_count(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind("do_wordcount", arguments, {});
  std::int64_t count = 0;
  bool in_word = false;
  for (const char32_t c : to_utf32(text_of(soft_string(runtime, self)))) {
    const bool is_word = c == U'_' || is_alnum(c);
    if (is_word && !in_word) ++count;
    in_word = is_word;
  }
  return count;
}

// --- what Jinja2 has and this implementation has not

#define SAO_UNSUPPORTED_FILTER(function, name) \
  Value function(Runtime&, const Value&, Arguments&) { unsupported("the filter '" name "' is not supported"); }
SAO_UNSUPPORTED_FILTER(pretty_print, "pprint")
SAO_UNSUPPORTED_FILTER(random_item, "random")
SAO_UNSUPPORTED_FILTER(strip_tags, "striptags")
SAO_UNSUPPORTED_FILTER(urlize, "urlize")
SAO_UNSUPPORTED_FILTER(word_wrap, "wordwrap")
SAO_UNSUPPORTED_FILTER(xml_attributes, "xmlattr")
#undef SAO_UNSUPPORTED_FILTER

}  // namespace

NativeFunction find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> kFilters = {
      {"abs", abs_filter},
      {"attr", attr},
      {"batch", batch},
      {"capitalize", capitalize_filter},
      {"center", center_filter},
      {"count", length_filter},
      {"d", default_filter},
      {"default", default_filter},
      {"dictsort", dictsort},
      {"e", escape},
      {"escape", escape},
      {"filesizeformat", file_size_format},
      {"first", first},
      {"float", float_filter},
      {"forceescape", force_escape},
      {"format", format_filter},
      {"groupby", group_by},
      {"indent", indent},
      {"int", int_filter},
      {"items", items},
      {"join", join_filter},
      {"last", last},
      {"length", length_filter},
      {"list", list_filter},
      {"lower", lower_filter},
      {"map", map},
      {"max", max_filter},
      {"min", min_filter},
      {"pprint", pretty_print},
      {"random", random_item},
      {"reject", select<false, false>},
      {"rejectattr", select<false, true>},
      {"replace", replace_filter},
      {"reverse", reverse},
      {"round", round_filter},
      {"safe", safe},
      {"select", select<true, false>},
      {"selectattr", select<true, true>},
      {"slice", slice},
      {"sort", sort},
      {"string", string_filter},
      {"striptags", strip_tags},
      {"sum", sum},
      {"title", title_filter},
      {"tojson", to_json_filter},
      {"trim", trim},
      {"truncate", truncate},
      {"unique", unique},
      {"upper", upper_filter},
      {"urlencode", url_encode},
      {"urlize", urlize},
      {"wordcount", word_count},
      {"wordwrap", word_wrap},
      {"xmlattr", xml_attributes},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace sao::jinja
