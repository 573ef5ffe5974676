// SPDX-License-Identifier: Apache-2.0
// What stands behind `is`. Follows: jinja2/tests.py.
#include <unordered_map>

#include "jinja/filters.h"
#include "jinja/methods.h"
#include "jinja/operators.h"

namespace sao::jinja {
namespace {

const Value& only(const std::vector<std::optional<Value>>& values) { return *values[0]; }

template <std::int64_t rest>
Value parity(Runtime& runtime, const Value& self, Arguments& arguments) {
  bind(rest == 0 ? "test_even" : "test_odd", arguments, {});
  return equals(runtime, binary(runtime, "%", self, 2), rest);
}

Value divisible_by(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("test_divisibleby", arguments, {"num"}, 1);
  return equals(runtime, binary(runtime, "%", self, only(values)), 0);
}

Value defined(Runtime&, const Value& self, Arguments&) { return !is_undefined(self); }
Value undefined(Runtime&, const Value& self, Arguments&) { return is_undefined(self); }
Value none(Runtime&, const Value& self, Arguments&) { return is_none(self); }
Value boolean(Runtime&, const Value& self, Arguments&) { return std::holds_alternative<bool>(self.data()); }
template <bool wanted>
Value is_boolean(Runtime&, const Value& self, Arguments&) {
  const auto* value = std::get_if<bool>(&self.data());
  return value && *value == wanted;
}
Value integer(Runtime&, const Value& self, Arguments&) { return std::holds_alternative<std::int64_t>(self.data()); }
Value real(Runtime&, const Value& self, Arguments&) { return std::holds_alternative<double>(self.data()); }
Value number(Runtime&, const Value& self, Arguments&) { return as_float(self).has_value(); }
Value string(Runtime&, const Value& self, Arguments&) { return is_string(self); }
Value mapping(Runtime&, const Value& self, Arguments&) { return as<DictObject>(self) != nullptr; }
Value lower_case(Runtime& runtime, const Value& self, Arguments&) { return is_lower(str(runtime, self)); }
Value upper_case(Runtime& runtime, const Value& self, Arguments&) { return is_upper(str(runtime, self)); }
Value escaped_text(Runtime&, const Value& self, Arguments&) {
  const auto* text = as<StringObject>(self);
  return text && text->markup();
}

// What has a length and items.
Value sequence(Runtime&, const Value& self, Arguments&) {
  return is_string(self) || as<SequenceObject>(self) || as<DictObject>(self) || as<RangeObject>(self) ||
         is_undefined(self);
}

Value iterable(Runtime&, const Value& self, Arguments&) {
  const auto* object = std::get_if<Value::Pointer>(&self.data());
  return object && (*object)->iterate(self) != nullptr;
}

Value callable(Runtime&, const Value& self, Arguments&) {
  const auto* object = std::get_if<Value::Pointer>(&self.data());
  return object && ((*object)->callable() || is_undefined(self));
}

Value same_as(Runtime&, const Value& self, Arguments& arguments) {
  const auto values = bind("test_sameas", arguments, {"other"}, 1);
  return identical(self, only(values));
}

Value is_in(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind("test_in", arguments, {"seq"}, 1);
  return contains(runtime, only(values), self);
}

Value is_filter(Runtime&, const Value& self, Arguments&) {
  const auto* name = as<StringObject>(self);
  return name && find_filter(name->text());
}
Value is_test(Runtime&, const Value& self, Arguments&) {
  const auto* name = as<StringObject>(self);
  return name && find_test(name->text());
}

template <bool wanted>
Value equal(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto values = bind(wanted ? "eq" : "ne", arguments, {"b"}, 1);
  return equals(runtime, self, only(values)) == wanted;
}

enum class Order { kLess, kLessEqual, kGreater, kGreaterEqual };
template <Order order>
Value ordered(Runtime& runtime, const Value& self, Arguments& arguments) {
  constexpr std::string_view kOperators[] = {"<", "<=", ">", ">="};
  const auto values = bind("compare", arguments, {"b"}, 1);
  return compare(runtime, kOperators[static_cast<int>(order)], self, only(values));
}

}  // namespace

NativeFunction find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> kTests = {
      {"odd", parity<1>},
      {"even", parity<0>},
      {"divisibleby", divisible_by},
      {"defined", defined},
      {"undefined", undefined},
      {"filter", is_filter},
      {"test", is_test},
      {"none", none},
      {"boolean", boolean},
      {"false", is_boolean<false>},
      {"true", is_boolean<true>},
      {"integer", integer},
      {"float", real},
      {"lower", lower_case},
      {"upper", upper_case},
      {"string", string},
      {"mapping", mapping},
      {"number", number},
      {"sequence", sequence},
      {"iterable", iterable},
      {"callable", callable},
      {"sameas", same_as},
      {"escaped", escaped_text},
      {"in", is_in},
      {"==", equal<true>},
      {"eq", equal<true>},
      {"equalto", equal<true>},
      {"!=", equal<false>},
      {"ne", equal<false>},
      {">", ordered<Order::kGreater>},
      {"gt", ordered<Order::kGreater>},
      {"greaterthan", ordered<Order::kGreater>},
      {"ge", ordered<Order::kGreaterEqual>},
      {">=", ordered<Order::kGreaterEqual>},
      {"<", ordered<Order::kLess>},
      {"lt", ordered<Order::kLess>},
      {"lessthan", ordered<Order::kLess>},
      {"<=", ordered<Order::kLessEqual>},
      {"le", ordered<Order::kLessEqual>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace sao::jinja
