// SPDX-License-Identifier: Apache-2.0
#include "jinja/interpreter.h"

#include <algorithm>

#include "jinja/filters.h"
#include "jinja/operators.h"

namespace sao::jinja {
namespace {

using enum ExpressionKind;

// A macro, or what `caller` is inside of a call block.
class MacroObject : public Object {
 public:
  MacroObject(Interpreter& interpreter, const Statement& statement, Scope& around)
      : interpreter_(interpreter), statement_(statement), around_(around) {}

  std::string_view type_name() const override { return "Macro"; }
  std::string_view module() const override { return "jinja2.runtime"; }
  bool callable() const override { return true; }
  std::string repr(Runtime&) const override {
    return statement_.name.empty() ? "<Macro anonymous>" : fmt::format("<Macro {}>", jinja::repr(statement_.name));
  }

  std::optional<Value> attribute(Runtime& runtime, const Value&, std::string_view name) const override {
    if (name == "name") return statement_.name.empty() ? Value() : Value(statement_.name);
    if (name == "catch_kwargs") return Value(statement_.uses_kwargs);
    if (name == "catch_varargs") return Value(statement_.uses_varargs);
    if (name == "caller") return Value(statement_.uses_caller);
    if (name != "arguments") return std::nullopt;
    std::vector<Value> names;
    for (const Parameter& parameter : statement_.parameters) names.emplace_back(parameter.name);
    return runtime.tuple(std::move(names));
  }

  // Follows: jinja2.runtime.Macro.__call__.
  Value call(Runtime& runtime, Arguments& arguments) override {
    const auto& parameters = statement_.parameters;
    Scope& scope = interpreter_.new_scope(&around_, statement_.body);
    bool found_caller = false;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      std::optional<Value> value;
      if (i < arguments.positional.size()) {
        value = arguments.positional[i];
      } else {
        value = take(runtime, arguments, parameters[i].name);
      }
      found_caller = found_caller || parameters[i].symbol == kCallerSymbol;
      scope.set(parameters[i].symbol, std::move(value));
    }
    if (statement_.uses_caller && !found_caller) {
      auto caller = take(runtime, arguments, "caller");
      scope.set(kCallerSymbol,
                caller && !is_none(*caller) ? std::move(caller) : runtime.undefined("No caller defined"));
    }
    set_rest(runtime, arguments, scope);
    // Defaults may refer to the parameters before them.
    for (const Parameter& parameter : parameters) {
      if (*scope.find(parameter.symbol)) continue;
      scope.set(parameter.symbol, parameter.otherwise ? interpreter_.evaluate(*parameter.otherwise, scope)
                                                      : runtime.undefined(fmt::format("parameter {} was not provided",
                                                                                      jinja::repr(parameter.name))));
    }
    std::string text;
    interpreter_.execute(statement_.body, scope, text);
    return runtime.string(std::move(text));
  }

 private:
  static std::optional<Value> take(Runtime& runtime, Arguments& arguments, std::string_view name) {
    runtime.step(static_cast<std::int64_t>(arguments.named.size() / 16));
    const auto found = std::ranges::find(arguments.named, name, [](const auto& field) { return field.first; });
    if (found == arguments.named.end()) return std::nullopt;
    Value value = std::move(found->second);
    arguments.named.erase(found);
    return value;
  }

  // What the parameters did not take.
  void set_rest(Runtime& runtime, Arguments& arguments, Scope& scope) const {
    if (statement_.uses_kwargs) {
      DictBuilder rest;
      for (auto& [name, value] : arguments.named) rest.set(name, std::move(value));
      scope.set(kKwargsSymbol, runtime.dict(rest.take()));
    } else if (!arguments.named.empty()) {
      const std::string name = statement_.name.empty() ? "None" : jinja::repr(statement_.name);
      for (const auto& field : arguments.named)
        if (field.first == "caller")
          type_error("macro {} was invoked with two values for the special caller argument. This is most likely a bug.",
                     name);
      type_error("macro {} takes no keyword argument {}", name, jinja::repr(arguments.named[0].first));
    }
    const std::size_t used = std::min(statement_.parameters.size(), arguments.positional.size());
    if (statement_.uses_varargs) {
      scope.set(kVarargsSymbol, runtime.tuple({arguments.positional.begin() + static_cast<std::ptrdiff_t>(used),
                                               arguments.positional.end()}));
    } else if (arguments.positional.size() > used) {
      type_error("macro {} takes not more than {} argument(s)",
                 statement_.name.empty() ? "None" : jinja::repr(statement_.name), statement_.parameters.size());
    }
  }

  Interpreter& interpreter_;
  const Statement& statement_;
  Scope& around_;
};

// The variable `loop`. Follows: jinja2.runtime.LoopContext.
class LoopObject : public Object {
 public:
  LoopObject(Interpreter& interpreter, const Statement& statement, Scope& around, Value items,
             std::unique_ptr<Iterator> iterator, int depth)
      : interpreter_(interpreter),
        statement_(statement),
        around_(around),
        items_(std::move(items)),
        iterator_(std::move(iterator)),
        depth_(depth) {}

  std::optional<Value> next(Runtime& runtime) {
    std::optional<Value> item = after_ ? std::exchange(after_, std::nullopt) : pull(runtime);
    if (!item) return std::nullopt;
    ++index0_;
    before_ = std::exchange(current_, item);
    return item;
  }

  std::string_view type_name() const override { return "LoopContext"; }
  std::string_view module() const override { return "jinja2.runtime"; }
  bool truth(Runtime& runtime) const override { return const_cast<LoopObject*>(this)->count(runtime) > 0; }
  bool callable() const override { return true; }
  std::optional<std::int64_t> length(Runtime& runtime) const override {
    return const_cast<LoopObject*>(this)->count(runtime);
  }
  std::string repr(Runtime& runtime) const override {
    return fmt::format("<LoopContext {}/{}>", index0_ + 1, *length(runtime));
  }
  void clear() override {
    items_ = {};
    iterator_.reset();
    after_.reset();
    before_.reset();
    current_.reset();
    changed_.reset();
  }

  std::optional<Value> attribute(Runtime& runtime, const Value& self, std::string_view name) const override {
    auto& loop = const_cast<LoopObject&>(*this);  // looking ahead is a change
    if (name == "index") return Value(index0_ + 1);
    if (name == "index0") return Value(index0_);
    if (name == "first") return Value(index0_ == 0);
    if (name == "last") return Value(!loop.peek(runtime));
    if (name == "length") return Value(loop.count(runtime));
    if (name == "revindex") return Value(loop.count(runtime) - index0_);
    if (name == "revindex0") return Value(loop.count(runtime) - index0_ - 1);
    if (name == "depth") return Value(depth_ + 1);
    if (name == "depth0") return Value(depth_);
    if (name == "previtem") return index0_ > 0 ? before_ : runtime.undefined("there is no previous item");
    if (name == "nextitem") {
      const auto& item = loop.peek(runtime);
      return item ? item : runtime.undefined("there is no next item");
    }
    if (name == "cycle") return method(runtime, "cycle", cycle, self);
    if (name == "changed") return method(runtime, "changed", changed, self);
    return std::nullopt;
  }

  Value call(Runtime& runtime, Arguments& arguments) override {
    if (!statement_.recursive) type_error("The loop must have the 'recursive' marker to be called recursively.");
    const auto values = bind("__call__", arguments, {"iterable"}, 1);
    std::string text;
    interpreter_.run_loop(statement_, *values[0], around_, depth_ + 1, text);
    return runtime.string(std::move(text));
  }

 private:
  std::optional<Value> pull(Runtime& runtime) { return iterator_ ? iterator_->next(runtime) : std::nullopt; }

  const std::optional<Value>& peek(Runtime& runtime) {
    if (!after_) after_ = pull(runtime);
    return after_;
  }

  // The number of all items; what has no length is walked to its end.
  std::int64_t count(Runtime& runtime) {
    if (count_) return *count_;
    const auto* pointer = std::get_if<Value::Pointer>(&items_.data());
    count_ = pointer ? (*pointer)->length(runtime) : std::nullopt;
    if (!count_) {
      std::vector<Value> rest;
      while (auto item = pull(runtime)) {
        runtime.allocate(sizeof(Value));
        rest.push_back(*std::move(item));
      }
      count_ = static_cast<std::int64_t>(rest.size()) + index0_ + 1 + (after_ ? 1 : 0);
      const Value list = runtime.list(std::move(rest));
      iterator_ = jinja::iterate(list);
    }
    return *count_;
  }

  static std::optional<Value> method(Runtime& runtime, std::string_view name, NativeFunction function,
                                     const Value& self) {
    runtime.allocate(sizeof(FunctionObject));
    return Value(std::make_shared<FunctionObject>("method", name, function, self));
  }
  static Value cycle(Runtime&, const Value& self, Arguments& arguments) {
    if (arguments.positional.empty()) type_error("no items for cycling given");
    const auto index = static_cast<std::size_t>(as<LoopObject>(self)->index0_);
    return arguments.positional[index % arguments.positional.size()];
  }
  static Value changed(Runtime& runtime, const Value& self, Arguments& arguments) {
    auto& loop = *as<LoopObject>(self);
    Value values = runtime.tuple(std::move(arguments.positional));
    if (loop.changed_ && equals(runtime, *loop.changed_, values)) return false;
    loop.changed_ = std::move(values);
    return true;
  }

  Interpreter& interpreter_;
  const Statement& statement_;
  Scope& around_;
  Value items_;
  std::unique_ptr<Iterator> iterator_;
  int depth_;
  std::int64_t index0_ = -1;
  std::optional<std::int64_t> count_;
  std::optional<Value> before_;
  std::optional<Value> current_;
  std::optional<Value> after_;
  std::optional<Value> changed_;
};

// The items of `for ... in ... if`: each is looked at when its turn comes.
class ConditionIterator : public Iterator {
 public:
  ConditionIterator(Interpreter& interpreter, const Statement& statement, Scope& scope, std::unique_ptr<Iterator> items)
      : interpreter_(interpreter), statement_(statement), scope_(scope), items_(std::move(items)) {}

  std::optional<Value> next(Runtime& runtime) override {
    while (auto item = items_->next(runtime)) {
      interpreter_.assign(*statement_.target, *item, scope_);
      if (truth(runtime, interpreter_.evaluate(*statement_.condition, scope_))) return item;
    }
    return std::nullopt;
  }

 private:
  Interpreter& interpreter_;
  const Statement& statement_;
  Scope& scope_;
  std::unique_ptr<Iterator> items_;
};

bool compare_operands(Runtime& runtime, const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return equals(runtime, a, b);
  if (op == "!=") return !equals(runtime, a, b);
  if (op == "in") return contains(runtime, b, a);
  if (op == "not in") return !contains(runtime, b, a);
  return compare(runtime, op, a, b);
}

}  // namespace

void Scope::set(int symbol, std::optional<Value> value) {
  const auto found = std::ranges::find(variables_, symbol, [](const auto& variable) { return variable.first; });
  if (found == variables_.end()) {
    variables_.emplace_back(symbol, std::move(value));
  } else {
    found->second = std::move(value);
  }
}

const std::optional<Value>* Scope::find(int symbol) const {
  for (const Scope* scope = this; scope; scope = scope->around_)
    for (const auto& [other, value] : scope->variables_)
      if (other == symbol) return &value;
  return nullptr;
}

std::string Interpreter::run() {
  std::string out;
  root_ = &new_scope(nullptr, syntax_.body);
  execute(syntax_.body, *root_, out);
  return out;
}

Scope& Interpreter::new_scope(const Scope* around, const Body& body) {
  runtime_.allocate(sizeof(Scope) + 128);
  Scope& scope = scopes_.emplace_back(around);
  start_scope(scope, body);
  return scope;
}

void Interpreter::start_scope(Scope& scope, const Body& body) const {
  const auto count = static_cast<std::int64_t>(body.undefined_at_start.size());
  runtime_.step(count / 8 + count * count / 64);
  scope.clear();
  for (const int symbol : body.undefined_at_start) scope.set(symbol, std::nullopt);
}

// --- expressions

Value Interpreter::evaluate(const Expression& expression, Scope& scope) {
  const Runtime::Depth depth(runtime_);
  runtime_.step();
  try {
    return evaluate_node(expression, scope);
  } catch (Failure& failure) {
    if (failure.line == 0) failure.line = expression.line;
    throw;
  }
}

Value Interpreter::evaluate_node(const Expression& expression, Scope& scope) {
  const auto operand = [&](std::size_t i) { return evaluate(*expression.operands[i], scope); };
  const auto optional_operand = [&](std::size_t i) { return expression.operands[i] ? operand(i) : Value(); };
  switch (expression.kind) {
    case kConstant:
      return expression.value;
    case kName:
      return variable(expression, scope);
    case kTuple:
      return runtime_.tuple(evaluate_all(expression.operands, scope));
    case kList:
      return runtime_.list(evaluate_all(expression.operands, scope));
    case kDict:
      return dict(expression, scope);
    case kAttribute:
      return get_attribute(runtime_, operand(0), expression.name);
    case kItem: {
      const Value value = operand(0);
      return get_item(runtime_, value, operand(1));
    }
    case kSlice: {
      const Value value = operand(0);
      const Value start = optional_operand(1);
      const Value stop = optional_operand(2);
      return get_slice(runtime_, value, start, stop, optional_operand(3));
    }
    case kCall:
      return call_expression(expression, scope, nullptr);
    case kFilter:
      return filter(expression, scope, nullptr);
    case kTest:
      return test(expression, scope);
    case kNot:
      return !truth(runtime_, operand(0));
    case kNegative:
      return negative(operand(0));
    case kPositive:
      return positive(operand(0));
    case kAnd: {
      Value left = operand(0);
      return truth(runtime_, left) ? operand(1) : left;
    }
    case kOr: {
      Value left = operand(0);
      return truth(runtime_, left) ? left : operand(1);
    }
    case kCompare:
      return compare_chain(expression, scope);
    case kBinary: {
      const Value left = operand(0);
      return binary(runtime_, expression.name, left, operand(1));
    }
    case kConcat:
      return concatenate(runtime_, evaluate_all(expression.operands, scope));
    case kConditional:
      return conditional(expression, scope);
    case kNamespace:
      break;
  }
  fail("TemplateSyntaxError", "a namespace's attribute can only be assigned to");
}

Value Interpreter::variable(const Expression& name, const Scope& scope) {
  step_for(scope);
  if (const auto* found = scope.find(name.symbol)) {
    if (*found) return **found;
  } else if (const Value* value = variables_.find(name.name)) {
    return *value;
  } else if (auto global = find_global(runtime_, name.name)) {
    return *std::move(global);
  }
  return runtime_.undefined(fmt::format("{} is undefined", repr(name.name)));
}

std::vector<Value> Interpreter::evaluate_all(const std::vector<ExpressionPointer>& expressions, Scope& scope) {
  std::vector<Value> values;
  values.reserve(expressions.size());
  for (const auto& expression : expressions) values.push_back(evaluate(*expression, scope));
  return values;
}

Value Interpreter::dict(const Expression& expression, Scope& scope) {
  DictBuilder builder;
  for (std::size_t i = 0; i + 1 < expression.operands.size(); i += 2) {
    const Value key = evaluate(*expression.operands[i], scope);
    builder.set(runtime_, key, evaluate(*expression.operands[i + 1], scope));
  }
  return runtime_.dict(builder.take());
}

Value Interpreter::compare_chain(const Expression& expression, Scope& scope) {
  Value left = evaluate(*expression.operands[0], scope);
  for (std::size_t i = 0; i < expression.operators.size(); ++i) {
    Value right = evaluate(*expression.operands[i + 1], scope);
    if (!compare_operands(runtime_, expression.operators[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::conditional(const Expression& expression, Scope& scope) {
  if (truth(runtime_, evaluate(*expression.operands[1], scope))) return evaluate(*expression.operands[0], scope);
  if (expression.operands[2]) return evaluate(*expression.operands[2], scope);
  return runtime_.undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expression.line));
}

Arguments Interpreter::arguments_of(const CallArguments& arguments, Scope& scope) {
  Arguments values;
  values.positional = evaluate_all(arguments.positional, scope);
  for (const auto& [name, expression] : arguments.named) values.named.emplace_back(name, evaluate(*expression, scope));
  if (arguments.star)
    for (Value& value : to_vector(runtime_, evaluate(*arguments.star, scope)))
      values.positional.push_back(std::move(value));
  if (arguments.star_star) {
    const Value named = evaluate(*arguments.star_star, scope);
    const auto* dict = as<DictObject>(named);
    if (!dict) type_error("argument after ** must be a mapping, not {}", type_name(named));
    for (const auto& [name, value] : dict->entries()) {
      const auto* text = as<StringObject>(name);
      if (!text) type_error("keywords must be strings");
      values.named.emplace_back(text->text(), value);
    }
  }
  for (std::size_t i = 0; i < values.named.size(); ++i) {
    runtime_.step(static_cast<std::int64_t>(i / 16));
    for (std::size_t j = 0; j < i; ++j)
      if (values.named[i].first == values.named[j].first)
        type_error("got multiple values for keyword argument {}", repr(values.named[i].first));
  }
  return values;
}

Value Interpreter::call_expression(const Expression& expression, Scope& scope, const Value* caller) {
  const Value callee = evaluate(*expression.operands[0], scope);
  Arguments arguments = arguments_of(expression.arguments, scope);
  if (caller) arguments.named.emplace_back("caller", *caller);
  return call(runtime_, callee, arguments);
}

Value Interpreter::filter(const Expression& expression, Scope& scope, const Value* input) {
  const NativeFunction function = find_filter(expression.name);
  if (!function) fail("TemplateRuntimeError", fmt::format("No filter named {} found.", repr(expression.name)));
  const Value value = expression.operands[0] ? expression.operands[0]->kind == kFilter
                                                   ? filter(*expression.operands[0], scope, input)
                                                   : evaluate(*expression.operands[0], scope)
                                             : *input;
  Arguments arguments = arguments_of(expression.arguments, scope);
  runtime_.read(value);
  return function(runtime_, value, arguments);
}

Value Interpreter::test(const Expression& expression, Scope& scope) {
  const NativeFunction function = find_test(expression.name);
  if (!function) fail("TemplateRuntimeError", fmt::format("No test named {} found.", repr(expression.name)));
  const Value value = evaluate(*expression.operands[0], scope);
  Arguments arguments = arguments_of(expression.arguments, scope);
  runtime_.read(value);
  return function(runtime_, value, arguments);
}

// --- statements

void Interpreter::assign(const Expression& target, Value value, Scope& scope) {
  step_for(scope);
  if (target.kind == kName) {
    scope.set(target.symbol, std::move(value));
    return;
  }
  if (target.kind == kNamespace) {
    const auto* found = scope.find(target.symbol);
    const Value* outer = found ? (*found ? &**found : nullptr) : variables_.find(target.name);
    auto* space = outer ? as<NamespaceObject>(*outer) : nullptr;
    if (!space) fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
    runtime_.allocate(64);
    space->set(target.attribute, std::move(value));
    return;
  }
  const auto* object = std::get_if<Value::Pointer>(&value.data());
  const auto iterator = object ? (*object)->iterate(value) : nullptr;
  if (!iterator) type_error("cannot unpack non-iterable {} object", type_name(value));
  std::vector<Value> items;
  while (auto item = iterator->next(runtime_)) {
    items.push_back(*std::move(item));
    if (items.size() > target.operands.size())
      value_error("too many values to unpack (expected {})", target.operands.size());
  }
  if (items.size() < target.operands.size())
    value_error("not enough values to unpack (expected {}, got {})", target.operands.size(), items.size());
  for (std::size_t i = 0; i < items.size(); ++i) assign(*target.operands[i], std::move(items[i]), scope);
}

Interpreter::Flow Interpreter::execute(const Body& body, Scope& scope, std::string& out) {
  for (const auto& statement : body.statements) {
    const Runtime::Depth depth(runtime_);
    runtime_.step();
    try {
      if (const Flow flow = execute(*statement, scope, out); flow != Flow::kNormal) return flow;
    } catch (Failure& failure) {
      if (failure.line == 0) failure.line = statement->line;
      throw;
    }
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute(const Statement& statement, Scope& scope, std::string& out) {
  switch (statement.kind) {
    case StatementKind::kOutput:
      output(statement, scope, out);
      break;
    case StatementKind::kFor:
      return run_loop(statement, evaluate(*statement.expression, scope), scope, 0, out);
    case StatementKind::kIf: {
      const bool condition = truth(runtime_, evaluate(*statement.condition, scope));
      return execute(condition ? statement.body : statement.otherwise, scope, out);
    }
    case StatementKind::kSet:
      set(statement, scope);
      break;
    case StatementKind::kSetBlock:
      return set_block(statement, scope);
    case StatementKind::kMacro:
      scope.set(statement.symbol, runtime_.changing<MacroObject>(*this, statement, scope));
      break;
    case StatementKind::kCallBlock:
      call_block(statement, scope, out);
      break;
    case StatementKind::kFilterBlock:
      return filter_block(statement, scope, out);
    case StatementKind::kWith:
      return with(statement, scope, out);
    case StatementKind::kScope:
      return execute(statement.body, new_scope(statement.at_root ? root_ : &scope, statement.body), out);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

void Interpreter::write(const Value& value, std::string& out) {
  const std::string text = str(runtime_, value);
  runtime_.allocate(text.size());
  out += text;
}

void Interpreter::output(const Statement& statement, Scope& scope, std::string& out) {
  for (const auto& expression : statement.expressions) {
    if (expression->kind == kConstant) {
      write(expression->value, out);
    } else {
      const Value value = evaluate(*expression, scope);
      if (const auto* undefined = as<UndefinedObject>(value); undefined && runtime_.settings().strict_undefined)
        undefined->fail_undefined();
      write(value, out);
    }
  }
}

void Interpreter::set(const Statement& statement, Scope& scope) {
  // The namespaces in the target are looked at before the value.
  const auto check = [&](const Expression& target, const auto& self) -> void {
    for (const auto& part : target.operands) self(*part, self);
    if (target.kind != kNamespace) return;
    const auto* found = scope.find(target.symbol);
    const Value* value = found ? (*found ? &**found : nullptr) : variables_.find(target.name);
    if (!value || !as<NamespaceObject>(*value))
      fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
  };
  check(*statement.target, check);
  assign(*statement.target, evaluate(*statement.expression, scope), scope);
}

Interpreter::Flow Interpreter::set_block(const Statement& statement, Scope& scope) {
  Scope& inside = new_scope(&scope, statement.body);
  std::string text;
  if (const Flow flow = execute(statement.body, inside, text); flow != Flow::kNormal) return flow;
  Value value = runtime_.string(std::move(text));
  if (statement.expression) value = filter(*statement.expression, inside, &value);
  assign(*statement.target, std::move(value), scope);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::filter_block(const Statement& statement, Scope& scope, std::string& out) {
  Scope& inside = new_scope(&scope, statement.body);
  std::string text;
  if (const Flow flow = execute(statement.body, inside, text); flow != Flow::kNormal) return flow;
  const Value value = runtime_.string(std::move(text));
  write(filter(*statement.expression, inside, &value), out);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::with(const Statement& statement, Scope& scope, std::string& out) {
  Scope& inside = new_scope(&scope, statement.body);
  for (std::size_t i = 0; i < statement.targets.size(); ++i)
    assign(*statement.targets[i], evaluate(*statement.expressions[i], scope), inside);
  return execute(statement.body, inside, out);
}

void Interpreter::call_block(const Statement& statement, Scope& scope, std::string& out) {
  const Value caller = runtime_.changing<MacroObject>(*this, statement, scope);
  write(call_expression(*statement.expression, scope, &caller), out);
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement, const Value& items, Scope& around, int depth,
                                        std::string& out) {
  auto iterator = iterate(items);
  Value source = items;
  if (statement.condition) {
    iterator = std::make_unique<ConditionIterator>(*this, statement, new_scope(&around, Body{}), std::move(iterator));
    source = Value();  // its length is not known
  }
  const Value loop_value =
      runtime_.changing<LoopObject>(*this, statement, around, std::move(source), std::move(iterator), depth);
  auto& loop = *as<LoopObject>(loop_value);
  Scope& scope = new_scope(&around, statement.body);
  bool all_left_early = true;  // no round came to its end: `else` runs then too, as in Jinja2
  while (auto item = loop.next(runtime_)) {
    runtime_.step();
    start_scope(scope, statement.body);
    scope.set(kLoopSymbol, loop_value);
    assign(*statement.target, *std::move(item), scope);
    const Flow flow = execute(statement.body, scope, out);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) all_left_early = false;
  }
  if (all_left_early && !statement.otherwise.statements.empty())
    return execute(statement.otherwise, new_scope(&around, statement.otherwise), out);
  return Flow::kNormal;
}

}  // namespace sao::jinja
