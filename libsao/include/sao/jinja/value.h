// SPDX-License-Identifier: Apache-2.0
// What a template computes with: Python's None, bool, int, float, str, list and dict.
//   auto message = sao::jinja::Value::dict({{"role", "user"}, {"content", "Hello"}});
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sao::jinja {

class Object;  // everything that is not a scalar; src/jinja/objects.h

/// A value; cheap to copy, and immutable. Integers have 64 bits. Strings are UTF-8, of which invalid bytes become
/// U+FFFD.
class Value {
 public:
  using Pointer = std::shared_ptr<Object>;
  using Fields = std::vector<std::pair<std::string, Value>>;

  Value() = default;  ///< None
  Value(bool value) : data_(value) {}
  Value(std::int64_t value) : data_(value) {}
  Value(int value) : data_(std::int64_t{value}) {}
  Value(double value) : data_(value) {}
  Value(std::string text);
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  explicit Value(Pointer object) : data_(std::move(object)) {}

  static Value list(std::vector<Value> items);
  /// Fields keep their order; of two with the same name the last one stands, at the place of the first.
  static Value dict(const Fields& fields);
  /// Throws InputError with the place of the mistake, and for integers of more than 64 bits.
  static Value parse_json(std::string_view text);

  using Data = std::variant<std::monostate, bool, std::int64_t, double, Pointer>;
  const Data& data() const { return data_; }

 private:
  Data data_;
};

}  // namespace sao::jinja
