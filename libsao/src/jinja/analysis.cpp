// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "jinja/failure.h"
#include "jinja/filters.h"
#include "jinja/operators.h"
#include "jinja/parser.h"

namespace sao::jinja {
namespace {

using enum StatementKind;

// Calls each(part) for the expressions directly inside of one.
template <class Each>
void for_each_part(const Expression& expression, const Each& each) {
  const auto visit = [&](const ExpressionPointer& part) {
    if (part) each(*part);
  };
  for (const auto& part : expression.operands) visit(part);
  for (const auto& part : expression.arguments.positional) visit(part);
  for (const auto& [name, part] : expression.arguments.named) visit(part);
  visit(expression.arguments.star);
  visit(expression.arguments.star_star);
}

// The variables of one scope, and of those around it.
struct Scope {
  const Scope* around = nullptr;
  std::set<int> known = {};
  std::vector<int> undefined_at_start = {};

  bool knows(int symbol) const { return known.contains(symbol) || (around && around->knows(symbol)); }
  void load(int symbol) {
    if (!knows(symbol)) known.insert(symbol);
  }
  // The first thing that happens to a variable of the scope is an assignment: it starts undefined. In a branch of an if
  // the assignment may not happen, and the variable starts as what it is outside.
  void store(int symbol, bool in_branch) {
    if (!in_branch && !knows(symbol)) undefined_at_start.push_back(symbol);
    known.insert(symbol);
  }
};

void load_all(const Expression& expression, Scope& scope) {
  if (expression.kind == ExpressionKind::kName || expression.kind == ExpressionKind::kNamespace)
    scope.load(expression.symbol);
  for_each_part(expression, [&](const Expression& part) { load_all(part, scope); });
}

void store_all(const Expression& target, Scope& scope, bool in_branch) {
  if (target.kind == ExpressionKind::kName) scope.store(target.symbol, in_branch);
  if (target.kind == ExpressionKind::kNamespace) scope.load(target.symbol);
  for (const auto& part : target.operands) store_all(*part, scope, in_branch);
}

void declare_all(const Expression& target, Scope& scope) {
  if (target.kind == ExpressionKind::kName) scope.known.insert(target.symbol);
  for (const auto& part : target.operands) declare_all(*part, scope);
}

// What the statements do in their own scope; those with scopes inside count by their outer parts only.
void collect(const Body& body, Scope& scope, bool in_branch) {
  const auto load = [&](const ExpressionPointer& expression) {
    if (expression) load_all(*expression, scope);
  };
  for (const auto& statement : body.statements) {
    switch (statement->kind) {
      case kOutput:
      case kWith:
        for (const auto& expression : statement->expressions) load(expression);
        break;
      case kFor:
      case kCallBlock:
        load(statement->expression);
        break;
      case kIf:
        load(statement->condition);
        collect(statement->body, scope, true);
        collect(statement->otherwise, scope, true);
        break;
      case kSet:
        load(statement->expression);
        store_all(*statement->target, scope, in_branch);
        break;
      case kSetBlock:
        store_all(*statement->target, scope, in_branch);
        break;
      case kMacro:
        scope.store(statement->symbol, in_branch);
        break;
      case kFilterBlock:
        // The filter's arguments belong to the scope inside, except that Jinja2 looks at them here too.
        load(statement->expression);
        break;
      case kScope:
      case kBreak:
      case kContinue:
        break;
    }
  }
}

void visit_inner(Body& body, const Scope& scope);

// A body with a scope of its own, in which `scope` already has the parameters.
void visit_scope(Body& body, Scope& scope) {
  collect(body, scope, false);
  body.undefined_at_start = scope.undefined_at_start;
  visit_inner(body, scope);
}

// Whether one of the names is mentioned before it is assigned to. Follows: jinja2.compiler.find_undeclared.
class MentionFinder {
 public:
  explicit MentionFinder(std::set<int> wanted) : wanted_(std::move(wanted)) {}
  bool found(int symbol) const { return found_.contains(symbol); }

  void visit(const Body& body) {
    for (const auto& statement : body.statements) visit(*statement);
  }

 private:
  void visit(const ExpressionPointer& expression) {
    if (expression) visit(*expression);
  }
  void visit(const Expression& expression) {
    if (expression.kind == ExpressionKind::kName && wanted_.contains(expression.symbol))
      found_.insert(expression.symbol);
    for_each_part(expression, [&](const Expression& part) { visit(part); });
  }
  void store(const Expression& target) {
    if (target.kind == ExpressionKind::kName) wanted_.erase(target.symbol);
    for (const auto& part : target.operands) store(*part);
  }
  void visit(const Statement& statement) {
    if (statement.kind == kScope && statement.at_root) return;
    if (statement.kind == kFor || statement.kind == kSet || statement.kind == kSetBlock) store(*statement.target);
    for (const auto& target : statement.targets) store(*target);
    for (const Parameter& parameter : statement.parameters) wanted_.erase(parameter.symbol);
    for (const Parameter& parameter : statement.parameters) visit(parameter.otherwise);
    for (const auto& expression : statement.expressions) visit(expression);
    visit(statement.expression);
    visit(statement.condition);
    visit(statement.body);
    visit(statement.otherwise);
  }

  std::set<int> wanted_;
  std::set<int> found_;
};

void visit_function(Statement& statement, const Scope& around) {
  MentionFinder finder({kCallerSymbol, kKwargsSymbol, kVarargsSymbol});
  finder.visit(statement.body);
  const auto uses = [&](int symbol) {
    if (!finder.found(symbol)) return false;
    for (const Parameter& parameter : statement.parameters) {
      if (parameter.symbol != symbol) continue;
      if (symbol == kCallerSymbol && !parameter.otherwise)
        fail("TemplateAssertionError",
             "When defining macros or call blocks the special \"caller\" argument must be omitted or be given a "
             "default.",
             statement.line);
      return symbol == kCallerSymbol;
    }
    return true;
  };
  statement.uses_caller = uses(kCallerSymbol);
  statement.uses_kwargs = uses(kKwargsSymbol);
  statement.uses_varargs = uses(kVarargsSymbol);
  Scope scope{.around = &around};
  for (const Parameter& parameter : statement.parameters) scope.known.insert(parameter.symbol);
  if (statement.uses_caller) scope.known.insert(kCallerSymbol);
  if (statement.uses_kwargs) scope.known.insert(kKwargsSymbol);
  if (statement.uses_varargs) scope.known.insert(kVarargsSymbol);
  for (const Parameter& parameter : statement.parameters)
    if (parameter.otherwise) load_all(*parameter.otherwise, scope);
  visit_scope(statement.body, scope);
}

void visit_inner(Body& body, const Scope& scope) {
  for (const auto& pointer : body.statements) {
    Statement& statement = *pointer;
    Scope inside{.around = statement.at_root ? nullptr : &scope};
    switch (statement.kind) {
      case kFor: {
        inside.known.insert(kLoopSymbol);
        declare_all(*statement.target, inside);
        visit_scope(statement.body, inside);
        Scope otherwise{.around = &scope};
        visit_scope(statement.otherwise, otherwise);
        break;
      }
      case kIf:
        visit_inner(statement.body, scope);
        visit_inner(statement.otherwise, scope);
        break;
      case kMacro:
      case kCallBlock:
        visit_function(statement, scope);
        break;
      case kWith:
        for (const auto& target : statement.targets) declare_all(*target, inside);
        visit_scope(statement.body, inside);
        break;
      case kSetBlock:
      case kFilterBlock:
      case kScope:
        visit_scope(statement.body, inside);
        break;
      default:
        break;
    }
  }
}

// --- filters and tests that do not exist

void check(const Expression& expression, bool soft) {
  if (expression.kind == ExpressionKind::kConditional) soft = true;
  if (!soft && expression.kind == ExpressionKind::kFilter && !find_filter(expression.name))
    fail("TemplateAssertionError", fmt::format("No filter named {}.", repr(expression.name)), expression.line);
  if (!soft && expression.kind == ExpressionKind::kTest && !find_test(expression.name))
    fail("TemplateAssertionError", fmt::format("No test named {}.", repr(expression.name)), expression.line);
  for_each_part(expression, [&](const Expression& part) { check(part, soft); });
}

void check(const Body& body, bool soft) {
  for (const auto& statement : body.statements) {
    const bool is_if = statement->kind == kIf;
    const bool inside = statement->kind == kFilterBlock || statement->kind == kSetBlock;
    for (const auto& expression : statement->expressions) check(*expression, soft);
    if (statement->expression) check(*statement->expression, soft && !inside);
    if (statement->condition) check(*statement->condition, is_if);
    for (const Parameter& parameter : statement->parameters)
      if (parameter.otherwise) check(*parameter.otherwise, false);
    check(statement->body, is_if);
    check(statement->otherwise, is_if);
  }
}

}  // namespace

void analyze(Syntax& syntax) {
  check(syntax.body, false);
  Scope root;
  visit_scope(syntax.body, root);
}

}  // namespace sao::jinja
