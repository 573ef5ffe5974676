// SPDX-License-Identifier: Apache-2.0
// The values that are not scalars, and the state of one rendering.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "jinja/failure.h"
#include "sao/jinja/template.h"
#include "sao/jinja/value.h"

namespace sao::jinja {

class Runtime;

/// The arguments of a call.
struct Arguments {
  std::vector<Value> positional = {};
  Value::Fields named = {};
};

/// Items one after the other; each is made when it is asked for.
class Iterator {
 public:
  virtual ~Iterator() = default;
  virtual std::optional<Value> next(Runtime& runtime) = 0;
};

/// How deep values may be nested in each other: what bounds the recursion of every walk over a value.
inline constexpr int kMaxNesting = 200;

/// What Python's protocols ask of an object. The defaults are those of an object that knows nothing.
class Object {
 public:
  explicit Object(int nesting = 1);
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  /// The name of the class in Python; with its module where that is not `builtins`.
  virtual std::string_view type_name() const = 0;
  virtual std::string_view module() const { return {}; }

  virtual bool truth(Runtime&) const { return true; }
  virtual std::string repr(Runtime&) const;
  virtual std::string str(Runtime& runtime) const { return repr(runtime); }
  /// Nothing where Python's len() or iter() would raise a TypeError.
  virtual std::optional<std::int64_t> length(Runtime&) const { return std::nullopt; }
  virtual std::unique_ptr<Iterator> iterate(const Value& self) const;
  /// getattr() and `self[key]`: nothing where Python raises an AttributeError, a LookupError or a TypeError.
  virtual std::optional<Value> attribute(Runtime&, const Value& self, std::string_view name) const;
  virtual std::optional<Value> item(Runtime&, const Value& key) const;
  virtual bool callable() const { return false; }
  virtual Value call(Runtime&, Arguments& arguments);
  /// Drops what the object refers to. Called at the end of a rendering for those that can change, which may form rings.
  virtual void clear() {}

  int nesting() const { return nesting_; }

 private:
  int nesting_;
};

class StringObject : public Object {
 public:
  explicit StringObject(std::string text, bool markup = false) : text_(std::move(text)), markup_(markup) {}
  const std::string& text() const { return text_; }
  /// Whether it is MarkupSafe's Markup, a string that escapes what is added to it.
  bool markup() const { return markup_; }

  std::string_view type_name() const override { return markup_ ? "Markup" : "str"; }
  std::string_view module() const override { return markup_ ? "markupsafe" : ""; }
  bool truth(Runtime&) const override { return !text_.empty(); }
  std::string repr(Runtime&) const override;
  std::string str(Runtime&) const override { return text_; }
  std::optional<std::int64_t> length(Runtime&) const override;
  std::unique_ptr<Iterator> iterate(const Value& self) const override;
  std::optional<Value> attribute(Runtime&, const Value& self, std::string_view name) const override;
  std::optional<Value> item(Runtime&, const Value& key) const override;

 private:
  std::string text_;
  bool markup_;
};

/// A list or a tuple.
class SequenceObject : public Object {
 public:
  enum class Kind { kList, kTuple, kGroup };  // kGroup: the named pair (grouper, list) of groupby

  SequenceObject(Kind kind, std::vector<Value> items);
  Kind kind() const { return kind_; }
  bool is_list() const { return kind_ == Kind::kList; }
  const std::vector<Value>& items() const { return items_; }

  std::string_view type_name() const override;
  std::string_view module() const override { return kind_ == Kind::kGroup ? "jinja2.filters" : ""; }
  bool truth(Runtime&) const override { return !items_.empty(); }
  std::string repr(Runtime&) const override;
  std::optional<std::int64_t> length(Runtime&) const override { return static_cast<std::int64_t>(items_.size()); }
  std::unique_ptr<Iterator> iterate(const Value& self) const override;
  std::optional<Value> attribute(Runtime&, const Value& self, std::string_view name) const override;
  std::optional<Value> item(Runtime&, const Value& key) const override;

 private:
  Kind kind_;
  std::vector<Value> items_;
};

/// Entries in the order of insertion.
class DictObject : public Object {
 public:
  using Entry = std::pair<Value, Value>;

  explicit DictObject(std::vector<Entry> entries);
  const std::vector<Entry>& entries() const { return entries_; }
  const Value* find(Runtime&, const Value& key) const;
  const Value* find(std::string_view key) const;

  std::string_view type_name() const override { return "dict"; }
  bool truth(Runtime&) const override { return !entries_.empty(); }
  std::string repr(Runtime&) const override;
  std::optional<std::int64_t> length(Runtime&) const override { return static_cast<std::int64_t>(entries_.size()); }
  std::unique_ptr<Iterator> iterate(const Value& self) const override;
  std::optional<Value> attribute(Runtime&, const Value& self, std::string_view name) const override;
  std::optional<Value> item(Runtime&, const Value& key) const override;

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, std::size_t> names_;  // the keys that are strings
};

/// Adds entries, or replaces the value of an equal key.
class DictBuilder {
 public:
  void set(Runtime&, const Value& key, Value value);
  void set(std::string_view key, Value value);
  std::vector<DictObject::Entry> take() { return std::move(entries_); }

 private:
  std::vector<DictObject::Entry> entries_;
  std::unordered_map<std::string, std::size_t> names_;
};

/// What a missing variable, attribute or item is: prints nothing, and fails in almost all else.
class UndefinedObject : public Object {
 public:
  explicit UndefinedObject(std::string message, bool unsafe = false) : message_(std::move(message)), unsafe_(unsafe) {}
  [[noreturn]] void fail_undefined() const { fail(unsafe_ ? "SecurityError" : "UndefinedError", message_); }

  std::string_view type_name() const override { return "Undefined"; }
  std::string_view module() const override { return "jinja2.runtime"; }
  bool truth(Runtime&) const override { return false; }
  std::string repr(Runtime&) const override { return "Undefined"; }
  std::string str(Runtime&) const override { return {}; }
  std::optional<std::int64_t> length(Runtime&) const override { return 0; }
  std::unique_ptr<Iterator> iterate(const Value& self) const override;
  std::optional<Value> attribute(Runtime&, const Value& self, std::string_view name) const override;
  std::optional<Value> item(Runtime&, const Value&) const override { fail_undefined(); }
  Value call(Runtime&, Arguments&) override { fail_undefined(); }

 private:
  std::string message_;
  bool unsafe_;
};

class RangeObject : public Object {
 public:
  RangeObject(std::int64_t start, std::int64_t stop, std::int64_t step);
  std::int64_t size() const { return size_; }
  std::int64_t at(std::int64_t index) const { return start_ + index * step_; }
  /// range[begin:end:stride], the indices already within the range's bounds.
  Value part(std::int64_t begin, std::int64_t end, std::int64_t stride) const;

  std::string_view type_name() const override { return "range"; }
  bool truth(Runtime&) const override { return size_ > 0; }
  std::string repr(Runtime&) const override;
  std::optional<std::int64_t> length(Runtime&) const override { return size_; }
  std::unique_ptr<Iterator> iterate(const Value& self) const override;
  std::optional<Value> item(Runtime&, const Value& key) const override;

 private:
  std::int64_t start_;
  std::int64_t stop_;
  std::int64_t step_;
  std::int64_t size_;
};

/// What dict.keys(), values() and items() return.
class ViewObject : public Object {
 public:
  enum class Part { kKeys, kValues, kItems };

  ViewObject(Value dict, Part part);
  const DictObject& dict() const { return static_cast<const DictObject&>(*std::get<Value::Pointer>(dict_.data())); }
  Part part() const { return part_; }
  Value at(std::size_t index) const;

  std::string_view type_name() const override;
  bool truth(Runtime&) const override { return !dict().entries().empty(); }
  std::string repr(Runtime&) const override;
  std::optional<std::int64_t> length(Runtime& runtime) const override { return dict().length(runtime); }
  std::unique_ptr<Iterator> iterate(const Value& self) const override;

 private:
  Value dict_;
  Part part_;
};

/// A generator or another iterator: it can be walked once.
class IteratorObject : public Object {
 public:
  IteratorObject(std::string_view type_name, std::unique_ptr<Iterator> iterator)
      : type_name_(type_name), iterator_(std::move(iterator)) {}

  std::optional<Value> next(Runtime& runtime);
  std::string_view type_name() const override { return type_name_; }
  std::unique_ptr<Iterator> iterate(const Value& self) const override;
  void clear() override { iterator_.reset(); }

 private:
  std::string_view type_name_;
  std::unique_ptr<Iterator> iterator_;
  bool running_ = false;
};

class NamespaceObject : public Object {
 public:
  explicit NamespaceObject(const std::vector<DictObject::Entry>& entries);
  void set(std::string_view name, Value value) { attributes_.set(name, std::move(value)); }

  std::string_view type_name() const override { return "Namespace"; }
  std::string_view module() const override { return "jinja2.utils"; }
  std::string repr(Runtime&) const override;
  std::optional<Value> attribute(Runtime&, const Value& self, std::string_view name) const override;
  void clear() override { attributes_ = {}; }

 private:
  struct Attributes {
    std::vector<std::pair<std::string, Value>> entries = {};
    std::unordered_map<std::string, std::size_t> names = {};
    void set(std::string_view name, Value value);
  };
  Attributes attributes_;
};

using NativeFunction = Value (*)(Runtime&, const Value& self, Arguments& arguments);

/// A global function, or a method with the value that it belongs to.
class FunctionObject : public Object {
 public:
  FunctionObject(std::string_view type_name, std::string_view name, NativeFunction function, Value self);

  std::string_view type_name() const override { return type_name_; }
  std::string repr(Runtime&) const override;
  bool callable() const override { return true; }
  Value call(Runtime& runtime, Arguments& arguments) override;

 private:
  std::string_view type_name_;
  std::string_view name_;
  NativeFunction function_;
  Value self_;
};

/// The object behind a value, where it is of class T.
template <class T>
T* as(const Value& value) {
  const auto* pointer = std::get_if<Value::Pointer>(&value.data());
  return pointer ? dynamic_cast<T*>(pointer->get()) : nullptr;
}
inline bool is_none(const Value& value) { return std::holds_alternative<std::monostate>(value.data()); }
inline bool is_undefined(const Value& value) { return as<UndefinedObject>(value) != nullptr; }
inline bool is_string(const Value& value) { return as<StringObject>(value) != nullptr; }
/// Integers and booleans, as Python has it.
std::optional<std::int64_t> as_integer(const Value& value);
/// Integers, booleans and floats.
std::optional<double> as_float(const Value& value);
/// How deep the values inside are nested.
int nesting_of(const Value& value);

/// One rendering: what it may still cost, and the objects that have to be taken apart at its end.
class Runtime {
 public:
  explicit Runtime(const Settings& settings) : settings_(settings) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  /// Takes note of work; throws a LimitError past the limit.
  void step(std::int64_t count = 1);
  /// The work of a function that reads all of a string; nothing for other values.
  void read(const Value& value);
  /// The work of a search for `wanted` in `text`, both as sizes: at worst their product.
  void search(std::size_t text, std::size_t wanted);
  void allocate(std::size_t bytes);
  const Settings& settings() const { return settings_; }

  Value string(std::string text, bool markup = false);
  Value list(std::vector<Value> items) { return sequence(SequenceObject::Kind::kList, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(SequenceObject::Kind::kTuple, std::move(items)); }
  Value sequence(SequenceObject::Kind kind, std::vector<Value> items);
  Value dict(std::vector<DictObject::Entry> entries);
  Value undefined(std::string message, bool unsafe = false);
  Value iterator(std::string_view type_name, std::unique_ptr<Iterator> iterator);
  /// A new object that can change.
  template <class T, class... Arguments>
  Value changing(Arguments&&... arguments) {
    auto object = std::make_shared<T>(std::forward<Arguments>(arguments)...);
    allocate(sizeof(T) + 64);
    changing_.push_back(object);
    return Value(Value::Pointer(std::move(object)));
  }

  /// Guards every recursion.
  class Depth {
   public:
    explicit Depth(Runtime& runtime) : depth_(runtime.depth_) {
      if (++depth_ > kMaxDepth) {
        --depth_;
        fail("RecursionError", "maximum recursion depth exceeded");
      }
    }
    ~Depth() { --depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    int& depth_;
  };

 private:
  static constexpr int kMaxDepth = 1000;

  Settings settings_;
  std::int64_t steps_ = 0;
  std::size_t allocated_ = 0;
  int depth_ = 0;
  std::vector<Value::Pointer> changing_;
};

}  // namespace sao::jinja
