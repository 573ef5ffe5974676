// SPDX-License-Identifier: Apache-2.0
// A parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sao/jinja/value.h"

namespace sao::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kConstant,     // value
  kName,         // name, symbol
  kNamespace,    // name.attribute as the target of an assignment: name, symbol, attribute
  kTuple,        // operands
  kList,         // operands
  kDict,         // operands: key, value, key, value, ...
  kAttribute,    // operands[0].name
  kItem,         // operands[0][operands[1]]
  kSlice,        // operands[0][operands[1]:operands[2]:operands[3]], null where left out
  kCall,         // operands[0](arguments)
  kFilter,       // operands[0] | name(arguments); no operand at the start of a filter block
  kTest,         // operands[0] is name(arguments)
  kNot,          // operands[0]
  kNegative,     // operands[0]
  kPositive,     // operands[0]
  kAnd,          // operands[0] and operands[1]
  kOr,           // operands[0] or operands[1]
  kCompare,      // operands[0] operators[0] operands[1] operators[1] ...
  kBinary,       // operands[0] name operands[1]
  kConcat,       // operands joined by ~
  kConditional,  // operands[0] if operands[1] else operands[2], which may be null
};

struct CallArguments {
  std::vector<ExpressionPointer> positional = {};
  std::vector<std::pair<std::string, ExpressionPointer>> named = {};
  ExpressionPointer star = {};       // *star
  ExpressionPointer star_star = {};  // **star_star
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 1;
  int depth = 1;  // levels of nodes, this one included
  std::string name = {};
  int symbol = -1;  // the number of a variable's name
  std::string attribute = {};
  Value value = {};
  std::vector<ExpressionPointer> operands = {};
  std::vector<std::string> operators = {};
  CallArguments arguments = {};
};

struct Statement;
/// Statements in their order, with the variables that they set in a scope of their own.
struct Body {
  std::vector<std::unique_ptr<Statement>> statements = {};
  /// Variables that are undefined from the start of the scope on, whatever the context calls so: those that are first
  /// assigned to, as Jinja2's compiler sees it. Filled in by analyze where the body has a scope of its own.
  std::vector<int> undefined_at_start = {};
};

enum class StatementKind {
  kOutput,       // expressions
  kFor,          // for target in expression (if condition) (recursive): body, otherwise
  kIf,           // if condition: body, else otherwise
  kSet,          // set target = expression
  kSetBlock,     // set target (| filter): body
  kMacro,        // macro name(parameters): body
  kCallBlock,    // call(parameters) expression: body
  kFilterBlock,  // filter expression: body
  kWith,         // with targets = values: body
  kScope,        // a body with its own scope: block, generation
  kBreak,
  kContinue,
};

struct Parameter {
  std::string name = {};
  int symbol = -1;
  ExpressionPointer otherwise = {};  // null where it has no default
};

struct Statement {
  StatementKind kind = StatementKind::kOutput;
  int line = 1;
  std::vector<ExpressionPointer> expressions = {};  // of output; the values of with
  ExpressionPointer expression = {};
  ExpressionPointer target = {};
  std::vector<ExpressionPointer> targets = {};  // of with
  ExpressionPointer condition = {};
  bool recursive = false;
  Body body = {};
  Body otherwise = {};
  std::string name = {};
  int symbol = -1;
  std::vector<Parameter> parameters = {};
  bool uses_caller = false;  // a macro's body mentions caller, kwargs, varargs
  bool uses_kwargs = false;
  bool uses_varargs = false;
  bool at_root = false;  // a scope whose surroundings are the template itself: block
};

struct Syntax {
  Body body = {};
  std::vector<std::string> symbols = {};  // the names of variables, by their numbers
};

/// What a reference to each of the special variables is numbered as.
enum SpecialSymbol : int { kLoopSymbol, kCallerSymbol, kKwargsSymbol, kVarargsSymbol };

}  // namespace sao::jinja
