// SPDX-License-Identifier: Apache-2.0
#include "jinja/objects.h"

#include <algorithm>

#include "base/utf8.h"
#include "jinja/methods.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace sao::jinja {
namespace {

int deepest(const std::vector<Value>& items) {
  int deepest = 0;
  for (const Value& item : items) deepest = std::max(deepest, nesting_of(item));
  return deepest;
}

int deepest(const std::vector<DictObject::Entry>& entries) {
  int deepest = 0;
  for (const auto& [key, value] : entries) deepest = std::max({deepest, nesting_of(key), nesting_of(value)});
  return deepest;
}

// Walks something that can be asked for its items by their index.
template <class At>
class IndexIterator : public Iterator {
 public:
  IndexIterator(Value keep, std::size_t size, At at) : keep_(std::move(keep)), size_(size), at_(std::move(at)) {}
  std::optional<Value> next(Runtime& runtime) override {
    if (index_ == size_) return std::nullopt;
    runtime.step();
    return at_(index_++);
  }

 private:
  Value keep_;  // what `at_` refers to
  std::size_t size_;
  At at_;
  std::size_t index_ = 0;
};

template <class At>
std::unique_ptr<Iterator> index_iterator(const Value& keep, std::size_t size, At at) {
  return std::make_unique<IndexIterator<At>>(keep, size, std::move(at));
}

class CharacterIterator : public Iterator {
 public:
  explicit CharacterIterator(Value text) : text_(std::move(text)) {}
  std::optional<Value> next(Runtime& runtime) override {
    const auto* string = as<StringObject>(text_);
    if (position_ == string->text().size()) return std::nullopt;
    const std::size_t begin = position_;
    next_character(string->text(), position_);
    return runtime.string(string->text().substr(begin, position_ - begin), string->markup());
  }

 private:
  Value text_;
  std::size_t position_ = 0;
};

class NoItems : public Iterator {
 public:
  std::optional<Value> next(Runtime&) override { return std::nullopt; }
};

// Walks an IteratorObject, which goes on where the last one stopped.
class SharedIterator : public Iterator {
 public:
  explicit SharedIterator(Value object) : object_(std::move(object)) {}
  std::optional<Value> next(Runtime& runtime) override { return as<IteratorObject>(object_)->next(runtime); }

 private:
  Value object_;
};

// The index that an integer key stands for, counted from the end where it is negative.
std::optional<std::size_t> index_of(const Value& key, std::int64_t size) {
  auto index = as_integer(key);
  if (!index) return std::nullopt;
  if (*index < 0) *index += size;
  if (*index < 0 || *index >= size) return std::nullopt;
  return static_cast<std::size_t>(*index);
}

}  // namespace

Object::Object(int nesting) : nesting_(nesting) {
  if (nesting_ > kMaxNesting)
    fail("LimitError", fmt::format("values nested more than {} deep, expected at most that", kMaxNesting));
}

std::string Object::repr(Runtime&) const {
  return fmt::format("<{}{}{} object>", module(), module().empty() ? "" : ".", type_name());
}
std::unique_ptr<Iterator> Object::iterate(const Value&) const { return nullptr; }
std::optional<Value> Object::attribute(Runtime&, const Value&, std::string_view) const { return std::nullopt; }
std::optional<Value> Object::item(Runtime&, const Value&) const { return std::nullopt; }
Value Object::call(Runtime&, Arguments&) { type_error("'{}' object is not callable", type_name()); }

std::string StringObject::repr(Runtime&) const {
  const std::string quoted = jinja::repr(text_);
  return markup_ ? "Markup(" + quoted + ")" : quoted;
}
std::optional<std::int64_t> StringObject::length(Runtime& runtime) const {
  runtime.step(1 + static_cast<std::int64_t>(text_.size() / 64));
  return detail::count_characters(text_);
}
std::unique_ptr<Iterator> StringObject::iterate(const Value& self) const {
  return std::make_unique<CharacterIterator>(self);
}
std::optional<Value> StringObject::attribute(Runtime& runtime, const Value& self, std::string_view name) const {
  return string_attribute(runtime, self, name);
}
std::optional<Value> StringObject::item(Runtime& runtime, const Value& key) const {
  runtime.step(1 + static_cast<std::int64_t>(text_.size() / 64));
  const auto index = index_of(key, detail::count_characters(text_));
  if (!index) return std::nullopt;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < *index; ++i) next_character(text_, begin);
  std::size_t end = begin;
  next_character(text_, end);
  return runtime.string(text_.substr(begin, end - begin), markup_);
}

SequenceObject::SequenceObject(Kind kind, std::vector<Value> items)
    : Object(deepest(items) + 1), kind_(kind), items_(std::move(items)) {}
std::string_view SequenceObject::type_name() const {
  return kind_ == Kind::kList ? "list" : kind_ == Kind::kTuple ? "tuple" : "_GroupTuple";
}
std::string SequenceObject::repr(Runtime& runtime) const {
  const Runtime::Depth depth(runtime);
  std::string text = is_list() ? "[" : "(";
  for (const Value& item : items_) {
    if (&item != &items_.front()) text += ", ";
    text += jinja::repr(runtime, item);
  }
  if (!is_list() && items_.size() == 1) text += ",";
  text += is_list() ? "]" : ")";
  runtime.allocate(text.size());
  return text;
}
std::unique_ptr<Iterator> SequenceObject::iterate(const Value& self) const {
  return index_iterator(self, items_.size(), [this](std::size_t i) { return items_[i]; });
}
std::optional<Value> SequenceObject::attribute(Runtime& runtime, const Value& self, std::string_view name) const {
  if (kind_ == Kind::kGroup && (name == "grouper" || name == "list")) return items_[name == "list" ? 1 : 0];
  return sequence_attribute(runtime, self, name);
}
std::optional<Value> SequenceObject::item(Runtime&, const Value& key) const {
  const auto index = index_of(key, static_cast<std::int64_t>(items_.size()));
  if (!index) return std::nullopt;
  return items_[*index];
}

DictObject::DictObject(std::vector<Entry> entries) : Object(deepest(entries) + 1), entries_(std::move(entries)) {
  for (std::size_t i = 0; i < entries_.size(); ++i)
    if (const auto* name = as<StringObject>(entries_[i].first)) names_.emplace(name->text(), i);
}
const Value* DictObject::find(std::string_view key) const {
  const auto found = names_.find(key);
  return found == names_.end() ? nullptr : &entries_[found->second].second;
}
const Value* DictObject::find(Runtime& runtime, const Value& key) const {
  runtime.read(key);
  if (const auto* name = as<StringObject>(key)) return find(name->text());
  if (names_.size() == entries_.size()) return nullptr;
  for (const auto& [other, value] : entries_)
    if (!is_string(other) && equals(runtime, other, key)) return &value;
  return nullptr;
}
std::string DictObject::repr(Runtime& runtime) const {
  const Runtime::Depth depth(runtime);
  std::string text = "{";
  for (const Entry& entry : entries_) {
    if (&entry != &entries_.front()) text += ", ";
    text += jinja::repr(runtime, entry.first) + ": " + jinja::repr(runtime, entry.second);
  }
  text += "}";
  runtime.allocate(text.size());
  return text;
}
std::unique_ptr<Iterator> DictObject::iterate(const Value& self) const {
  return index_iterator(self, entries_.size(), [this](std::size_t i) { return entries_[i].first; });
}
std::optional<Value> DictObject::attribute(Runtime& runtime, const Value& self, std::string_view name) const {
  return dict_attribute(runtime, self, name);
}
std::optional<Value> DictObject::item(Runtime& runtime, const Value& key) const {
  const Value* value = find(runtime, key);
  return value ? std::optional(*value) : std::nullopt;
}

void DictBuilder::set(std::string_view key, Value value) {
  const auto [found, is_new] = names_.emplace(key, entries_.size());
  if (is_new) {
    entries_.emplace_back(Value(key), std::move(value));
  } else {
    entries_[found->second].second = std::move(value);
  }
}
void DictBuilder::set(Runtime& runtime, const Value& key, Value value) {
  require_hashable(runtime, key);
  runtime.read(key);
  if (const auto* name = as<StringObject>(key)) return set(name->text(), std::move(value));
  for (auto& [other, old] : entries_)
    if (!is_string(other) && equals(runtime, other, key)) {
      old = std::move(value);
      return;
    }
  entries_.emplace_back(key, std::move(value));
}

std::unique_ptr<Iterator> UndefinedObject::iterate(const Value&) const { return std::make_unique<NoItems>(); }
std::optional<Value> UndefinedObject::attribute(Runtime&, const Value&, std::string_view name) const {
  if (name.starts_with("__") && name.ends_with("__")) return std::nullopt;
  fail_undefined();
}

RangeObject::RangeObject(std::int64_t start, std::int64_t stop, std::int64_t step)
    : start_(start), stop_(stop), step_(step), size_(0) {
  if (step == 0) value_error("range() arg 3 must not be zero");
  // In 128 bits: the ends may be as far apart as 64-bit numbers can be.
  const auto distance = step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const auto stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  constexpr int kMaxSize = 100'000;  // of Jinja2's sandbox
  const auto size = distance > 0 ? (distance + stride - 1) / stride : 0;
  if (size > kMaxSize)
    fail("OverflowError",
         fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxSize));
  size_ = static_cast<std::int64_t>(size);
}
Value RangeObject::part(std::int64_t begin, std::int64_t end, std::int64_t stride) const {
  const auto number = [](__int128 value) {
    if (value != static_cast<std::int64_t>(value)) unsupported("integers of more than 64 bits are not supported");
    return static_cast<std::int64_t>(value);
  };
  const auto place = [&](std::int64_t index) { return number(start_ + static_cast<__int128>(index) * step_); };
  return Value(std::make_shared<RangeObject>(place(begin), place(end), number(static_cast<__int128>(stride) * step_)));
}
std::string RangeObject::repr(Runtime&) const {
  return step_ == 1 ? fmt::format("range({}, {})", start_, stop_)
                    : fmt::format("range({}, {}, {})", start_, stop_, step_);
}
std::unique_ptr<Iterator> RangeObject::iterate(const Value& self) const {
  return index_iterator(self, static_cast<std::size_t>(size_),
                        [this](std::size_t i) { return Value(at(static_cast<std::int64_t>(i))); });
}
std::optional<Value> RangeObject::item(Runtime&, const Value& key) const {
  const auto index = index_of(key, size_);
  if (!index) return std::nullopt;
  return Value(at(static_cast<std::int64_t>(*index)));
}

ViewObject::ViewObject(Value dict, Part part) : Object(nesting_of(dict) + 1), dict_(std::move(dict)), part_(part) {}
Value ViewObject::at(std::size_t index) const {
  const auto& [key, value] = dict().entries()[index];
  if (part_ == Part::kKeys) return key;
  if (part_ == Part::kValues) return value;
  return Value(std::make_shared<SequenceObject>(SequenceObject::Kind::kTuple, std::vector<Value>{key, value}));
}
std::string_view ViewObject::type_name() const {
  return part_ == Part::kKeys ? "dict_keys" : part_ == Part::kValues ? "dict_values" : "dict_items";
}
std::string ViewObject::repr(Runtime& runtime) const {
  std::vector<Value> items;
  for (std::size_t i = 0; i < dict().entries().size(); ++i) items.push_back(at(i));
  return fmt::format("{}({})", type_name(), jinja::repr(runtime, runtime.list(std::move(items))));
}
std::unique_ptr<Iterator> ViewObject::iterate(const Value& self) const {
  return index_iterator(self, dict().entries().size(), [this](std::size_t i) { return at(i); });
}

std::optional<Value> IteratorObject::next(Runtime& runtime) {
  if (running_) value_error("generator already executing");
  if (!iterator_) return std::nullopt;
  const Runtime::Depth depth(runtime);
  running_ = true;
  std::optional<Value> value;
  try {
    value = iterator_->next(runtime);
  } catch (...) {
    running_ = false;
    throw;
  }
  running_ = false;
  if (!value) iterator_.reset();
  return value;
}
std::unique_ptr<Iterator> IteratorObject::iterate(const Value& self) const {
  return std::make_unique<SharedIterator>(self);
}

NamespaceObject::NamespaceObject(const std::vector<DictObject::Entry>& entries) {
  for (const auto& [name, value] : entries) {
    const auto* text = as<StringObject>(name);
    if (text) attributes_.set(text->text(), value);  // other keys cannot be reached
  }
}
void NamespaceObject::Attributes::set(std::string_view name, Value value) {
  const auto [found, is_new] = names.emplace(name, entries.size());
  if (is_new) {
    entries.emplace_back(name, std::move(value));
  } else {
    entries[found->second].second = std::move(value);
  }
}
std::string NamespaceObject::repr(Runtime& runtime) const {
  const Runtime::Depth depth(runtime);
  std::string text = "<Namespace {";
  for (const auto& entry : attributes_.entries) {
    if (&entry != &attributes_.entries.front()) text += ", ";
    text += jinja::repr(entry.first) + ": " + jinja::repr(runtime, entry.second);
  }
  text += "}>";
  runtime.allocate(text.size());
  return text;
}
std::optional<Value> NamespaceObject::attribute(Runtime&, const Value&, std::string_view name) const {
  const auto found = attributes_.names.find(std::string(name));
  if (found == attributes_.names.end()) return std::nullopt;
  return attributes_.entries[found->second].second;
}

FunctionObject::FunctionObject(std::string_view type_name, std::string_view name, NativeFunction function, Value self)
    : Object(nesting_of(self) + 1), type_name_(type_name), name_(name), function_(function), self_(std::move(self)) {}
Value FunctionObject::call(Runtime& runtime, Arguments& arguments) {
  runtime.read(self_);
  return function_(runtime, self_, arguments);
}
std::string FunctionObject::repr(Runtime&) const { return fmt::format("<{} {}>", type_name_, name_); }

std::optional<std::int64_t> as_integer(const Value& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value.data())) return *integer;
  if (const auto* boolean = std::get_if<bool>(&value.data())) return *boolean ? 1 : 0;
  return std::nullopt;
}
std::optional<double> as_float(const Value& value) {
  if (const auto* number = std::get_if<double>(&value.data())) return *number;
  if (const auto integer = as_integer(value)) return static_cast<double>(*integer);
  return std::nullopt;
}
int nesting_of(const Value& value) {
  const auto* pointer = std::get_if<Value::Pointer>(&value.data());
  return pointer ? (*pointer)->nesting() : 0;
}

Runtime::~Runtime() {
  for (const auto& object : changing_) object->clear();
}
void Runtime::step(std::int64_t count) {
  steps_ += count;
  if (steps_ > settings_.limits.steps)
    fail("LimitError", fmt::format("more than {} steps, expected fewer", settings_.limits.steps));
}
void Runtime::read(const Value& value) {
  if (const auto* string = as<StringObject>(value)) step(1 + static_cast<std::int64_t>(string->text().size() / 8));
}
void Runtime::search(std::size_t text, std::size_t wanted) {
  step(1 + static_cast<std::int64_t>(text / 16));
  if (wanted <= text) step(static_cast<std::int64_t>((text - wanted) / 64 * wanted / 64));
}
void Runtime::allocate(std::size_t bytes) {
  step(1 + static_cast<std::int64_t>(bytes / 64));
  allocated_ += bytes;
  if (allocated_ > static_cast<std::size_t>(settings_.limits.memory))
    fail("LimitError", fmt::format("more than {} bytes of values, expected fewer", settings_.limits.memory));
}
Value Runtime::string(std::string text, bool markup) {
  allocate(text.size() + sizeof(StringObject));
  return Value(std::make_shared<StringObject>(std::move(text), markup));
}
Value Runtime::sequence(SequenceObject::Kind kind, std::vector<Value> items) {
  allocate(items.size() * sizeof(Value) + sizeof(SequenceObject));
  return Value(std::make_shared<SequenceObject>(kind, std::move(items)));
}
Value Runtime::dict(std::vector<DictObject::Entry> entries) {
  allocate(entries.size() * 2 * sizeof(DictObject::Entry) + sizeof(DictObject));
  return Value(std::make_shared<DictObject>(std::move(entries)));
}
Value Runtime::undefined(std::string message, bool unsafe) {
  allocate(message.size() + sizeof(UndefinedObject));
  return Value(std::make_shared<UndefinedObject>(std::move(message), unsafe));
}
Value Runtime::iterator(std::string_view type_name, std::unique_ptr<Iterator> iterator) {
  return changing<IteratorObject>(type_name, std::move(iterator));
}

}  // namespace sao::jinja
