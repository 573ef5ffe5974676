// SPDX-License-Identifier: Apache-2.0
// Runs a syntax tree.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jinja/ast.h"
#include "jinja/objects.h"

namespace sao::jinja {

/// Variables by their numbers, and the scope around. A variable without a value is undefined, whatever the scopes
/// around say.
class Scope {
 public:
  explicit Scope(const Scope* around) : around_(around) {}

  void set(int symbol, std::optional<Value> value);
  /// Null where neither this scope nor one around it knows the variable.
  const std::optional<Value>* find(int symbol) const;
  void clear() { variables_.clear(); }
  /// How many variables a search may have to look at.
  std::size_t size() const { return variables_.size() + (around_ ? around_->size() : 0); }

 private:
  const Scope* around_;
  std::vector<std::pair<int, std::optional<Value>>> variables_;
};

class Interpreter {
 public:
  /// All three outlive the interpreter.
  Interpreter(const Syntax& syntax, const DictObject& variables, Runtime& runtime)
      : syntax_(syntax), variables_(variables), runtime_(runtime) {}

  std::string run();

  /// How a statement ended: `break` and `continue` leave the statements around them.
  enum class Flow { kNormal, kBreak, kContinue };

  Value evaluate(const Expression& expression, Scope& scope);
  Flow execute(const Body& body, Scope& scope, std::string& out);
  void assign(const Expression& target, Value value, Scope& scope);
  /// A scope that stays until the end of the rendering, since macros may refer to it.
  Scope& new_scope(const Scope* around, const Body& body);
  void start_scope(Scope& scope, const Body& body) const;
  /// One call of a loop that is `recursive`, or the whole of another one.
  Flow run_loop(const Statement& statement, const Value& items, Scope& around, int depth, std::string& out);
  Runtime& runtime() { return runtime_; }
  const std::string& name_of(int symbol) const { return syntax_.symbols[static_cast<std::size_t>(symbol)]; }

 private:
  Value evaluate_node(const Expression& expression, Scope& scope);
  Value variable(const Expression& name, const Scope& scope);
  void step_for(const Scope& scope) { runtime_.step(static_cast<std::int64_t>(scope.size() / 32)); }
  Value dict(const Expression& expression, Scope& scope);
  Value compare_chain(const Expression& expression, Scope& scope);
  Value conditional(const Expression& expression, Scope& scope);
  Value call_expression(const Expression& expression, Scope& scope, const Value* caller);
  Value filter(const Expression& expression, Scope& scope, const Value* input);
  Value test(const Expression& expression, Scope& scope);
  std::vector<Value> evaluate_all(const std::vector<ExpressionPointer>& expressions, Scope& scope);
  Arguments arguments_of(const CallArguments& arguments, Scope& scope);

  Flow execute(const Statement& statement, Scope& scope, std::string& out);
  void output(const Statement& statement, Scope& scope, std::string& out);
  void set(const Statement& statement, Scope& scope);
  Flow set_block(const Statement& statement, Scope& scope);
  Flow filter_block(const Statement& statement, Scope& scope, std::string& out);
  Flow with(const Statement& statement, Scope& scope, std::string& out);
  void call_block(const Statement& statement, Scope& scope, std::string& out);
  void write(const Value& value, std::string& out);

  const Syntax& syntax_;
  const DictObject& variables_;
  Runtime& runtime_;
  std::deque<Scope> scopes_;
  Scope* root_ = nullptr;
};

}  // namespace sao::jinja
