// SPDX-License-Identifier: Apache-2.0
// The functions that every template can call: Jinja2's, and those that transformers adds.
#include <time.h>

#include <chrono>
#include <unordered_map>

#include "jinja/filters.h"
#include "jinja/operators.h"

namespace sao::jinja {
namespace {

// Goes round through its values.
class CyclerObject : public Object {
 public:
  explicit CyclerObject(std::vector<Value> items) : items_(std::move(items)) {}

  std::string_view type_name() const override { return "Cycler"; }
  std::string_view module() const override { return "jinja2.utils"; }
  std::optional<Value> attribute(Runtime& runtime, const Value& self, std::string_view name) const override {
    if (name == "current") return items_[place_];
    if (name == "pos") return Value(static_cast<std::int64_t>(place_));
    if (name == "items") return runtime.tuple(items_);
    if (name == "next") return Value(std::make_shared<FunctionObject>("method", "next", next, self));
    if (name == "reset") return Value(std::make_shared<FunctionObject>("method", "reset", reset, self));
    return std::nullopt;
  }
  void clear() override { items_.assign(1, Value()); }

 private:
  static Value next(Runtime&, const Value& self, Arguments&) {
    auto& cycler = *as<CyclerObject>(self);
    Value value = cycler.items_[cycler.place_];
    cycler.place_ = (cycler.place_ + 1) % cycler.items_.size();
    return value;
  }
  static Value reset(Runtime&, const Value& self, Arguments&) {
    as<CyclerObject>(self)->place_ = 0;
    return {};
  }

  std::vector<Value> items_;
  std::size_t place_ = 0;
};

// Empty at its first call, its separator from then on.
class JoinerObject : public Object {
 public:
  explicit JoinerObject(Value separator) : separator_(std::move(separator)) {}

  std::string_view type_name() const override { return "Joiner"; }
  std::string_view module() const override { return "jinja2.utils"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(Runtime&, const Value&, std::string_view name) const override {
    if (name == "sep") return separator_;
    if (name == "used") return Value(used_);
    return std::nullopt;
  }
  Value call(Runtime& runtime, Arguments& arguments) override {
    bind("__call__", arguments, {});
    return std::exchange(used_, true) ? separator_ : runtime.string("");
  }
  void clear() override { separator_ = {}; }

 private:
  Value separator_;
  bool used_ = false;
};

Value range(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto& values = arguments.positional;
  if (!arguments.named.empty()) type_error("range() takes no keyword arguments");
  if (values.empty()) type_error("range expected at least 1 argument, got 0");
  if (values.size() > 3) type_error("range expected at most 3 arguments, got {}", values.size());
  std::vector<std::int64_t> numbers;
  for (const Value& value : values) numbers.push_back(integer_or(value, 0));
  runtime.allocate(sizeof(RangeObject));
  if (numbers.size() == 1) return Value(std::make_shared<RangeObject>(0, numbers[0], 1));
  return Value(std::make_shared<RangeObject>(numbers[0], numbers[1], numbers.size() == 3 ? numbers[2] : 1));
}

// The entries of Python's dict(...).
std::vector<DictObject::Entry> dict_entries(Runtime& runtime, Arguments& arguments) {
  if (arguments.positional.size() > 1)
    type_error("dict expected at most 1 argument, got {}", arguments.positional.size());
  DictBuilder builder;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (const auto* dict = as<DictObject>(source)) {
      for (const auto& [key, value] : dict->entries()) builder.set(runtime, key, value);
    } else {
      std::size_t index = 0;
      for (const Value& pair : to_vector(runtime, source)) {
        const auto* object = std::get_if<Value::Pointer>(&pair.data());
        if (!object || !(*object)->iterate(pair))
          type_error("cannot convert dictionary update sequence element #{} to a sequence", index);
        const auto parts = to_vector(runtime, pair);
        if (parts.size() != 2)
          value_error("dictionary update sequence element #{} has length {}; 2 is required", index, parts.size());
        builder.set(runtime, parts[0], parts[1]);
        ++index;
      }
    }
  }
  for (auto& [name, value] : arguments.named) builder.set(name, std::move(value));
  return builder.take();
}

Value dict(Runtime& runtime, const Value&, Arguments& arguments) {
  return runtime.dict(dict_entries(runtime, arguments));
}
Value name_space(Runtime& runtime, const Value&, Arguments& arguments) {
  return runtime.changing<NamespaceObject>(dict_entries(runtime, arguments));
}

Value cycler(Runtime& runtime, const Value&, Arguments& arguments) {
  if (arguments.positional.empty()) fail("RuntimeError", "at least one item has to be provided");
  return runtime.changing<CyclerObject>(std::move(arguments.positional));
}
Value joiner(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto values = bind("Joiner", arguments, {"sep"});
  return runtime.changing<JoinerObject>(values[0].value_or(runtime.string(", ")));
}

Value lipsum(Runtime&, const Value&, Arguments&) { unsupported("the function 'lipsum' is not supported"); }

Value raise_exception(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto values = bind("raise_exception", arguments, {"message"}, 1);
  fail("TemplateError", str(runtime, *values[0]));
}

// datetime.now().strftime(format), in the C locale.
Value strftime_now(Runtime& runtime, const Value&, Arguments& arguments) {
  const auto values = bind("strftime_now", arguments, {"format"}, 1);
  const auto* format = as<StringObject>(*values[0]);
  if (!format) type_error("strftime() argument 1 must be str, not {}", type_name(*values[0]));
  const auto now = runtime.settings().now.value_or(std::chrono::system_clock::now());
  const auto since = now.time_since_epoch();
  const std::time_t seconds = std::chrono::floor<std::chrono::seconds>(since).count();
  const auto microseconds =
      std::chrono::duration_cast<std::chrono::microseconds>(since - std::chrono::floor<std::chrono::seconds>(since));
  std::tm local{};
  localtime_r(&seconds, &local);
  std::string text;
  const std::string& form = format->text();
  for (std::size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '%' || i + 1 == form.size()) {
      text += form[i];
      continue;
    }
    std::string directive = "%";
    directive += form[++i];
    if ((form[i] == '-' || form[i] == '_' || form[i] == '0' || form[i] == '^' || form[i] == '#' || form[i] == 'E' ||
         form[i] == 'O' || form[i] == ':') &&
        i + 1 < form.size())
      directive += form[++i];
    if (directive == "%f") {
      text += fmt::format("{:06}", microseconds.count());
    } else if (directive == "%z" || directive == "%Z") {
      // a time without a zone
    } else {
      char buffer[256];
      text.append(buffer, strftime(buffer, sizeof buffer, directive.c_str(), &local));
    }
    runtime.allocate(64);
  }
  return runtime.string(std::move(text));
}

}  // namespace

std::optional<Value> find_global(Runtime& runtime, std::string_view name) {
  struct Global {
    std::string_view type;
    NativeFunction function;
  };
  static const std::unordered_map<std::string_view, Global> kGlobals = {
      {"range", {"function", range}},
      {"dict", {"type", dict}},
      {"namespace", {"type", name_space}},
      {"cycler", {"type", cycler}},
      {"joiner", {"type", joiner}},
      {"lipsum", {"function", lipsum}},
      {"raise_exception", {"function", raise_exception}},
      {"strftime_now", {"function", strftime_now}},
  };
  const auto found = kGlobals.find(name);
  if (found == kGlobals.end()) return std::nullopt;
  runtime.allocate(sizeof(FunctionObject));
  return Value(std::make_shared<FunctionObject>(found->second.type, found->first, found->second.function, Value()));
}

}  // namespace sao::jinja
