// SPDX-License-Identifier: Apache-2.0
#include "jinja/operators.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/utf8.h"
#include "jinja/format.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

const Value::Pointer* object_of(const Value& value) { return std::get_if<Value::Pointer>(&value.data()); }

const RangeObject* as_range(const Value& value) { return as<RangeObject>(value); }

[[noreturn]] void too_large() { unsupported("integers of more than 64 bits are not supported"); }

// Undefined operands fail before all else, as in Python, where Undefined has every operator.
void check_defined(const Value& a, const Value& b) {
  if (const auto* undefined = as<UndefinedObject>(a)) undefined->fail_undefined();
  if (const auto* undefined = as<UndefinedObject>(b)) undefined->fail_undefined();
}

bool is_float(const Value& value) { return std::holds_alternative<double>(value.data()); }

// Negative, zero or positive; nothing where a NaN is compared. Integers and floats compare exactly.
std::optional<int> order_numbers(const Value& a, const Value& b) {
  const auto order = [](auto x, auto y) -> std::optional<int> {
    if (x < y) return -1;
    if (x > y) return 1;
    return x == y ? std::optional(0) : std::nullopt;
  };
  if (!is_float(a) && !is_float(b)) return order(*as_integer(a), *as_integer(b));
  const auto exact = [](const Value& value) {
    return is_float(value) ? static_cast<long double>(std::get<double>(value.data()))
                           : static_cast<long double>(*as_integer(value));
  };
  return order(exact(a), exact(b));
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  if (a == std::numeric_limits<std::int64_t>::min() && b == -1) too_large();
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}
std::int64_t floor_modulo(std::int64_t a, std::int64_t b) {
  if (b == -1) return 0;
  const std::int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
double floor_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}
double floor_divide(double a, double b) {
  // As CPython's float_divmod.
  const double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) too_large();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) too_large();
  }
  return result;
}

Value integer_arithmetic(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) too_large();
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) too_large();
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) too_large();
  } else if (op == "/") {
    if (b == 0) fail("ZeroDivisionError", "division by zero");
    return static_cast<double>(a) / static_cast<double>(b);
  } else if (op == "//") {
    if (b == 0) fail("ZeroDivisionError", "integer division or modulo by zero");
    result = floor_divide(a, b);
  } else if (op == "%") {
    if (b == 0) fail("ZeroDivisionError", "integer modulo by zero");
    result = floor_modulo(a, b);
  } else if (b >= 0) {
    result = power(a, b);
  } else {
    if (a == 0) fail("ZeroDivisionError", "0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(a), static_cast<double>(b));
  }
  return result;
}

Value float_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") {
    if (a == 0 && b < 0) fail("ZeroDivisionError", "0.0 cannot be raised to a negative power");
    if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b))
      unsupported("complex numbers are not supported");
    const double result = std::pow(a, b);
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b))
      fail("OverflowError", "(34, 'Numerical result out of range')");
    return result;
  }
  if (b == 0)
    fail("ZeroDivisionError", op == "/"    ? "float division by zero"
                              : op == "//" ? "float floor division by zero"
                                           : "float modulo");
  if (op == "/") return a / b;
  return op == "//" ? floor_divide(a, b) : floor_modulo(a, b);
}

Value repeat(Runtime& runtime, const Value& value, std::int64_t count) {
  const auto times = static_cast<std::size_t>(std::max<std::int64_t>(count, 0));
  const auto check = [&](std::size_t size, std::size_t item_bytes) {
    if (size > 0 && times > static_cast<std::size_t>(runtime.settings().limits.memory) / (size * item_bytes))
      fail("LimitError", fmt::format("more than {} bytes of values, expected fewer", runtime.settings().limits.memory));
  };
  if (const auto* string = as<StringObject>(value)) {
    check(string->text().size(), 1);
    std::string text;
    text.reserve(string->text().size() * times);
    for (std::size_t i = 0; !string->text().empty() && i < times; ++i) text += string->text();
    return runtime.string(std::move(text), string->markup());
  }
  const auto* sequence = as<SequenceObject>(value);
  check(sequence->items().size(), sizeof(Value));
  std::vector<Value> items;
  for (std::size_t i = 0; !sequence->items().empty() && i < times; ++i)
    items.insert(items.end(), sequence->items().begin(), sequence->items().end());
  return sequence->is_list() ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

[[noreturn]] void unsupported_operands(std::string_view op, const Value& a, const Value& b) {
  type_error("unsupported operand type(s) for {}: '{}' and '{}'", op == "**" ? "** or pow()" : op, type_name(a),
             type_name(b));
}

Value add(Runtime& runtime, const Value& a, const Value& b) {
  const auto* left = as<StringObject>(a);
  const auto* right = as<StringObject>(b);
  if (left && right) {
    if (left->markup() || right->markup())
      return runtime.string(escaped(runtime, a) + escaped(runtime, b), /*markup=*/true);
    return runtime.string(left->text() + right->text());
  }
  check_defined(a, b);
  if (left) type_error("can only concatenate str (not \"{}\") to str", type_name(b));
  if (const auto* sequence = as<SequenceObject>(a)) {
    const std::string_view kind = sequence->is_list() ? "list" : "tuple";
    const auto* other = as<SequenceObject>(b);
    if (!other || other->is_list() != sequence->is_list())
      type_error("can only concatenate {} (not \"{}\") to {}", kind, type_name(b), kind);
    std::vector<Value> items = sequence->items();
    items.insert(items.end(), other->items().begin(), other->items().end());
    return sequence->is_list() ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
  }
  unsupported_operands("+", a, b);
}

Value multiply(Runtime& runtime, const Value& a, const Value& b) {
  check_defined(a, b);
  const auto is_repeatable = [](const Value& value) { return is_string(value) || as<SequenceObject>(value); };
  if (is_repeatable(a) || is_repeatable(b)) {
    const Value& sequence = is_repeatable(a) ? a : b;
    const Value& count = is_repeatable(a) ? b : a;
    const auto times = as_integer(count);
    if (!times) type_error("can't multiply sequence by non-int of type '{}'", type_name(count));
    return repeat(runtime, sequence, *times);
  }
  unsupported_operands("*", a, b);
}

bool sequences_equal(Runtime& runtime, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!equals(runtime, a[i], b[i])) return false;
  return true;
}

bool objects_equal(Runtime& runtime, const Value& a, const Value& b) {
  if (const auto* left = as<StringObject>(a)) {
    const auto* right = as<StringObject>(b);
    if (!right) return false;
    runtime.step(1 + static_cast<std::int64_t>(left->text().size() / 64));
    return left->text() == right->text();
  }
  if (const auto* left = as<SequenceObject>(a)) {
    const auto* right = as<SequenceObject>(b);
    return right && left->is_list() == right->is_list() && sequences_equal(runtime, left->items(), right->items());
  }
  if (const auto* left = as<DictObject>(a)) {
    const auto* right = as<DictObject>(b);
    if (!right || left->entries().size() != right->entries().size()) return false;
    for (const auto& [key, value] : left->entries()) {
      const Value* other = right->find(runtime, key);
      if (!other || !equals(runtime, value, *other)) return false;
    }
    return true;
  }
  if (is_undefined(a)) return is_undefined(b);
  if (const auto* left = as_range(a)) {
    const auto* right = as_range(b);
    if (!right || left->size() != right->size()) return false;
    if (left->size() == 0) return true;
    return left->at(0) == right->at(0) && (left->size() == 1 || left->at(1) == right->at(1));
  }
  return false;
}

std::optional<Value> number_attribute(const Value& value, std::string_view name) {
  if (is_none(value)) return std::nullopt;
  if (name == "real") return positive(value);
  if (name == "imag") return is_float(value) ? Value(0.0) : Value(0);
  if (name == "numerator" && !is_float(value)) return positive(value);
  if (name == "denominator" && !is_float(value)) return Value(1);
  for (const std::string_view method : {"as_integer_ratio", "bit_count", "bit_length", "conjugate", "from_bytes",
                                        "fromhex", "hex", "is_integer", "to_bytes"})
    if (name == method) unsupported("the method {} of {} is not supported", repr(name), type_name(value));
  return std::nullopt;
}

// The attribute as Python's getattr finds it, or an undefined where the sandbox does not let it out.
std::optional<Value> safe_attribute(Runtime& runtime, const Value& value, std::string_view name) {
  const auto* object = object_of(value);
  const auto unsafe = [&] {
    return runtime.undefined(
        fmt::format("access to attribute {} of '{}' object is unsafe.", repr(name), type_name(value)), true);
  };
  // What every Python object has.
  static constexpr std::string_view kInternal[] = {
      "__class__",  "__delattr__", "__dir__",          "__doc__",          "__eq__",           "__format__",
      "__ge__",     "__gt__",      "__hash__",         "__init__",         "__le__",           "__lt__",
      "__ne__",     "__new__",     "__reduce__",       "__reduce_ex__",    "__repr__",         "__setattr__",
      "__sizeof__", "__str__",     "__subclasshook__", "__getattribute__", "__init_subclass__"};
  if (name.starts_with("__") && std::ranges::find(kInternal, name) != std::end(kInternal)) return unsafe();
  if (!object) return number_attribute(value, name);
  auto found = (*object)->attribute(runtime, value, name);
  if (found && name.starts_with('_')) return unsafe();
  return found;
}

Value missing_attribute(Runtime& runtime, const Value& value, const Value& name) {
  const auto* text = as<StringObject>(name);
  return runtime.undefined(
      text ? fmt::format("{} has no attribute {}", repr(type_description(value)), repr(text->text()))
           : fmt::format("{} has no element {}", type_description(value), repr(runtime, name)));
}

}  // namespace

std::string_view type_name(const Value& value) {
  struct Name {
    std::string_view operator()(std::monostate) const { return "NoneType"; }
    std::string_view operator()(bool) const { return "bool"; }
    std::string_view operator()(std::int64_t) const { return "int"; }
    std::string_view operator()(double) const { return "float"; }
    std::string_view operator()(const Value::Pointer& object) const { return object->type_name(); }
  };
  return std::visit(Name{}, value.data());
}

std::string type_description(const Value& value) {
  if (is_none(value)) return "None";
  const auto* object = object_of(value);
  const std::string_view module = object ? (*object)->module() : "";
  return fmt::format("{}{}{} object", module, module.empty() ? "" : ".", type_name(value));
}

bool truth(Runtime& runtime, const Value& value) {
  struct Truth {
    Runtime& runtime;
    bool operator()(std::monostate) const { return false; }
    bool operator()(bool boolean) const { return boolean; }
    bool operator()(std::int64_t number) const { return number != 0; }
    bool operator()(double number) const { return number != 0; }
    bool operator()(const Value::Pointer& object) const { return object->truth(runtime); }
  };
  return std::visit(Truth{runtime}, value.data());
}

std::string repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char digits[32];
  const auto scientific = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific);
  const std::string_view text(digits, scientific.ptr);
  int exponent = 0;
  const std::size_t mark = text.find('e');
  std::from_chars(text.data() + mark + (text[mark + 1] == '+' ? 2 : 1), scientific.ptr, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed);
  std::string result(digits, fixed.ptr);
  if (result.find('.') == result.npos) result += ".0";
  return result;
}

std::string repr(std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string quoted(1, quote);
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    const char32_t c = next_character(text, i);
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      quoted += '\\';
      quoted += static_cast<char>(c);
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\r') {
      quoted += "\\r";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (is_printable(c)) {
      quoted += text.substr(begin, i - begin);
    } else {
      quoted += c < 0x100     ? fmt::format("\\x{:02x}", static_cast<unsigned>(c))
                : c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<unsigned>(c))
                              : fmt::format("\\U{:08x}", static_cast<unsigned>(c));
    }
  }
  quoted += quote;
  return quoted;
}

std::string repr(Runtime& runtime, const Value& value) {
  struct Repr {
    Runtime& runtime;
    std::string operator()(std::monostate) const { return "None"; }
    std::string operator()(bool boolean) const { return boolean ? "True" : "False"; }
    std::string operator()(std::int64_t number) const { return fmt::format("{}", number); }
    std::string operator()(double number) const { return repr(number); }
    std::string operator()(const Value::Pointer& object) const { return object->repr(runtime); }
  };
  runtime.step();
  return std::visit(Repr{runtime}, value.data());
}

std::string str(Runtime& runtime, const Value& value) {
  const auto* object = object_of(value);
  return object ? (*object)->str(runtime) : repr(runtime, value);
}

bool equals(Runtime& runtime, const Value& a, const Value& b) {
  runtime.step();
  if (const auto* left = object_of(a), *right = object_of(b); left || right) {
    if (!left || !right) return false;
    if (*left == *right) return true;
    const Runtime::Depth depth(runtime);
    return objects_equal(runtime, a, b);
  }
  if (is_none(a) || is_none(b)) return is_none(a) && is_none(b);
  return order_numbers(a, b) == 0;
}

bool identical(const Value& a, const Value& b) {
  if (a.data().index() != b.data().index()) return false;
  if (a.data() == b.data()) return true;
  const auto* left = as<StringObject>(a);
  const auto* right = as<StringObject>(b);
  return left && right && left->text() == right->text() && left->markup() == right->markup();
}

bool compare(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  runtime.step();
  const auto decide = [&](int order) {
    return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
  };
  if (as_float(a) && as_float(b)) {
    const auto order = order_numbers(a, b);
    return order && decide(*order);
  }
  const auto* left = as<StringObject>(a);
  const auto* right = as<StringObject>(b);
  if (left && right) {
    runtime.step(static_cast<std::int64_t>(std::min(left->text().size(), right->text().size()) / 64));
    return decide(left->text().compare(right->text()));
  }
  const auto* first = as<SequenceObject>(a);
  const auto* second = as<SequenceObject>(b);
  if (first && second && first->is_list() == second->is_list()) {
    const Runtime::Depth depth(runtime);
    const std::size_t shorter = std::min(first->items().size(), second->items().size());
    for (std::size_t i = 0; i < shorter; ++i)
      if (!equals(runtime, first->items()[i], second->items()[i]))
        return compare(runtime, op, first->items()[i], second->items()[i]);
    return decide(first->items().size() < second->items().size() ? -1 : first->items().size() > second->items().size());
  }
  check_defined(a, b);
  type_error("'{}' not supported between instances of '{}' and '{}'", op, type_name(a), type_name(b));
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (const auto* string = as<StringObject>(container)) {
    const auto* part = as<StringObject>(item);
    if (!part) type_error("'in <string>' requires string as left operand, not {}", type_name(item));
    runtime.search(string->text().size(), part->text().size());
    return string->text().find(part->text()) != std::string::npos;
  }
  if (const auto* dict = as<DictObject>(container)) {
    require_hashable(runtime, item);
    return dict->find(runtime, item) != nullptr;
  }
  const auto* object = object_of(container);
  const auto iterator = object ? (*object)->iterate(container) : nullptr;
  if (!iterator) type_error("argument of type '{}' is not iterable", type_name(container));
  while (const auto value = iterator->next(runtime))
    if (equals(runtime, *value, item)) return true;
  return false;
}

void require_hashable(Runtime& runtime, const Value& value) {
  runtime.step();
  if (as<DictObject>(value)) type_error("unhashable type: 'dict'");
  if (const auto* sequence = as<SequenceObject>(value)) {
    if (sequence->is_list()) type_error("unhashable type: 'list'");
    for (const Value& item : sequence->items()) require_hashable(runtime, item);
  }
}

Value binary(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (const auto* left = as<StringObject>(a); left && op == "%") return percent_format(runtime, a, b);
  const auto left = as_integer(a);
  const auto right = as_integer(b);
  if (left && right) return integer_arithmetic(op, *left, *right);
  if (const auto x = as_float(a), y = as_float(b); x && y) return float_arithmetic(op, *x, *y);
  if (op == "+") return add(runtime, a, b);
  if (op == "*") return multiply(runtime, a, b);
  check_defined(a, b);
  unsupported_operands(op, a, b);
}

Value negative(const Value& value) {
  if (const auto integer = as_integer(value)) return integer_arithmetic("-", 0, *integer);
  if (const auto number = as_float(value)) return -*number;
  check_defined(value, value);
  type_error("bad operand type for unary -: '{}'", type_name(value));
}

Value positive(const Value& value) {
  if (const auto integer = as_integer(value)) return *integer;
  if (is_float(value)) return value;
  check_defined(value, value);
  type_error("bad operand type for unary +: '{}'", type_name(value));
}

Value concatenate(Runtime& runtime, const std::vector<Value>& values) {
  std::string text;
  for (const Value& value : values) text += str(runtime, value);
  return runtime.string(std::move(text));
}

Value get_attribute(Runtime& runtime, const Value& value, std::string_view name) {
  if (auto found = safe_attribute(runtime, value, name)) return *std::move(found);
  const Value key = runtime.string(std::string(name));
  if (const auto* object = object_of(value))
    if (auto found = (*object)->item(runtime, key)) return *std::move(found);
  return missing_attribute(runtime, value, key);
}

Value get_item(Runtime& runtime, const Value& value, const Value& key) {
  if (const auto* object = object_of(value))
    if (auto found = (*object)->item(runtime, key)) return *std::move(found);
  if (const auto* name = as<StringObject>(key))
    if (auto found = safe_attribute(runtime, value, name->text())) return *std::move(found);
  return missing_attribute(runtime, value, key);
}

Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop, const Value& step) {
  check_defined(value, value);
  const auto* string = as<StringObject>(value);
  const auto* sequence = as<SequenceObject>(value);
  const auto* range = as_range(value);
  if (as<DictObject>(value)) type_error("unhashable type: 'slice'");
  if (!string && !sequence && !range) type_error("'{}' object is not subscriptable", type_name(value));
  const auto part = [](const Value& index) -> std::optional<std::int64_t> {
    if (is_none(index)) return std::nullopt;
    const auto integer = as_integer(index);
    if (!integer) type_error("slice indices must be integers or None or have an __index__ method");
    return integer;
  };
  const std::int64_t stride = part(step).value_or(1);
  if (stride == 0) value_error("slice step cannot be zero");
  const std::u32string characters = string ? to_utf32(string->text()) : std::u32string();
  const auto size = string     ? static_cast<std::int64_t>(characters.size())
                    : sequence ? static_cast<std::int64_t>(sequence->items().size())
                               : range->size();
  runtime.step(1 + size / 16);
  // As CPython's PySlice_AdjustIndices.
  const auto place = [&](std::optional<std::int64_t> index, std::int64_t otherwise) {
    if (!index) return otherwise;
    if (*index < 0) return std::max<std::int64_t>(*index + size, stride < 0 ? -1 : 0);
    return std::min<std::int64_t>(*index, stride < 0 ? size - 1 : size);
  };
  const std::int64_t begin = place(part(start), stride < 0 ? size - 1 : 0);
  const std::int64_t end = place(part(stop), stride < 0 ? -1 : size);
  if (range) return range->part(begin, end, stride);
  std::vector<std::size_t> indices;
  for (std::int64_t i = begin; stride < 0 ? i > end : i < end;) {
    indices.push_back(static_cast<std::size_t>(i));
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (string) {
    std::string text;
    for (const std::size_t i : indices) detail::append_utf8(characters[i], text);
    return runtime.string(std::move(text), string->markup());
  }
  std::vector<Value> items;
  for (const std::size_t i : indices) items.push_back(sequence->items()[i]);
  return sequence->is_list() ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

std::unique_ptr<Iterator> iterate(const Value& value) {
  const auto* object = object_of(value);
  auto iterator = object ? (*object)->iterate(value) : nullptr;
  if (!iterator) type_error("'{}' object is not iterable", type_name(value));
  return iterator;
}

std::vector<Value> to_vector(Runtime& runtime, const Value& value) {
  if (const auto* sequence = as<SequenceObject>(value)) {
    runtime.step(1 + static_cast<std::int64_t>(sequence->items().size() / 16));
    return sequence->items();
  }
  std::vector<Value> items;
  const auto iterator = iterate(value);
  while (auto item = iterator->next(runtime)) {
    runtime.allocate(sizeof(Value));
    items.push_back(*std::move(item));
  }
  return items;
}

std::int64_t length(Runtime& runtime, const Value& value) {
  const auto* object = object_of(value);
  const auto length = object ? (*object)->length(runtime) : std::nullopt;
  if (!length) type_error("object of type '{}' has no len()", type_name(value));
  return *length;
}

Value call(Runtime& runtime, const Value& callee, Arguments& arguments) {
  const Runtime::Depth depth(runtime);
  const auto* object = object_of(callee);
  if (!object) type_error("'{}' object is not callable", type_name(callee));
  return (*object)->call(runtime, arguments);
}

std::string escaped(Runtime& runtime, const Value& value) {
  const auto* string = as<StringObject>(value);
  if (string && string->markup()) return string->text();
  std::string safe;
  for (const char c : str(runtime, value)) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      case '"':
        safe += "&#34;";
        break;
      default:
        safe += c;
    }
  }
  runtime.allocate(safe.size());
  return safe;
}

std::vector<std::optional<Value>> bind(std::string_view function, Arguments& arguments,
                                       std::initializer_list<std::string_view> names, std::size_t required) {
  if (arguments.positional.size() > names.size())
    type_error("{}() takes {} positional argument{} but {} were given", function, names.size(),
               names.size() == 1 ? "" : "s", arguments.positional.size());
  std::vector<std::optional<Value>> values(names.size());
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) values[i] = arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto* found = std::ranges::find(names, std::string_view(name));
    if (found == names.end()) type_error("{}() got an unexpected keyword argument {}", function, repr(name));
    auto& place = values[static_cast<std::size_t>(found - names.begin())];
    if (place) type_error("{}() got multiple values for argument {}", function, repr(name));
    place = value;
  }
  for (std::size_t i = 0; i < required; ++i)
    if (!values[i]) type_error("{}() missing 1 required positional argument: '{}'", function, *(names.begin() + i));
  return values;
}

std::int64_t integer_or(const std::optional<Value>& value, std::int64_t otherwise) {
  if (!value) return otherwise;
  const auto integer = as_integer(*value);
  if (!integer) {
    check_defined(*value, *value);
    type_error("'{}' object cannot be interpreted as an integer", type_name(*value));
  }
  return *integer;
}

bool truth_or(Runtime& runtime, const std::optional<Value>& value, bool otherwise) {
  return value ? truth(runtime, *value) : otherwise;
}

}  // namespace sao::jinja
