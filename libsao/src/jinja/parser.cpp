// SPDX-License-Identifier: Apache-2.0
#include "jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <unordered_map>
#include <unordered_set>

#include "jinja/failure.h"
#include "jinja/lexer.h"
#include "jinja/operators.h"

namespace sao::jinja {
namespace {

using enum ExpressionKind;

constexpr int kMaxDepth = 200;      // of expressions and statements in each other
constexpr int kMaxTreeDepth = 400;  // of an expression's nodes, which chains of operators make deep without nesting

// What Jinja2 calls a node in "can't assign to ...".
std::string_view node_name(ExpressionKind kind) {
  switch (kind) {
    case kConstant:
      return "const";
    case kName:
      return "name";
    case kTuple:
      return "tuple";
    case kList:
      return "list";
    case kDict:
      return "dict";
    case kAttribute:
      return "getattr";
    case kItem:
    case kSlice:
      return "getitem";
    case kCall:
      return "call";
    case kFilter:
      return "filter";
    case kTest:
      return "test";
    case kCompare:
      return "compare";
    case kConditional:
      return "condexpr";
    default:
      return "expression";
  }
}

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {
    check_token(0);
    for (const char* name : {"loop", "caller", "kwargs", "varargs"}) symbol_of(name);
  }

  Syntax run() {
    syntax_.body = statements({});
    return std::move(syntax_);
  }

 private:
  // --- tokens

  const Token& current() const { return tokens_.list[place_]; }
  const Token& look() const {
    const std::size_t place = std::min(place_ + 1, tokens_.list.size() - 1);
    check_token(place);
    return tokens_.list[place];
  }
  const Token& next() {
    const Token& token = current();
    if (token.type != TokenType::kEnd) check_token(++place_);
    return token;
  }
  static bool is(const Token& token, TokenType type, std::string_view text) {
    return token.type == type && token.text == text;
  }
  void check_token(std::size_t place) const {
    if (tokens_.list[place].type == TokenType::kFailure) throw *tokens_.failure;
  }
  bool at_name(std::string_view name) const { return is(current(), TokenType::kName, name); }
  bool at(std::string_view op) const { return is(current(), TokenType::kOperator, op); }
  bool at(TokenType type) const { return current().type == type; }
  bool take_name(std::string_view name) { return at_name(name) && (next(), true); }
  bool take(std::string_view op) { return at(op) && (next(), true); }
  const Token& expect(bool found, std::string_view wanted) {
    if (!found) {
      if (at(TokenType::kEnd)) syntax_error(fmt::format("unexpected end of template, expected '{}'.", wanted));
      syntax_error(fmt::format("expected token '{}', got {}", wanted, repr(describe(current()))));
    }
    return next();
  }
  const Token& expect(std::string_view op) { return expect(at(op), op); }
  const Token& expect_any_name() { return expect(at(TokenType::kName), "name"); }
  const Token& expect_block_end() { return expect(at(TokenType::kBlockEnd), "end of statement block"); }

  [[noreturn]] void syntax_error(std::string message, int line = 0) const {
    fail("TemplateSyntaxError", std::move(message), line ? line : current().line);
  }

  class Depth {
   public:
    explicit Depth(Parser& parser) : depth_(parser.depth_) {
      if (++depth_ > kMaxDepth) parser.syntax_error(fmt::format("more than {} levels, expected fewer", kMaxDepth));
    }
    ~Depth() { --depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    int& depth_;
  };

  int symbol_of(const std::string& name) {
    const auto [found, is_new] = numbers_.emplace(name, static_cast<int>(syntax_.symbols.size()));
    if (is_new) syntax_.symbols.push_back(name);
    return found->second;
  }

  // --- statements

  // Everything up to one of the tags `ends`, which stays; without `ends` to the end of the template.
  Body statements(std::initializer_list<std::string_view> ends) {
    const Depth depth(*this);
    if (ends.size() > 0) open_ends_.emplace_back(ends.begin(), ends.end());
    Body body;
    Statement* output = nullptr;
    const auto add_output = [&](ExpressionPointer expression, int line) {
      if (!output) {
        body.statements.push_back(make_statement(StatementKind::kOutput, line));
        output = body.statements.back().get();
      }
      output->expressions.push_back(std::move(expression));
    };
    while (true) {
      const int line = current().line;
      if (at(TokenType::kEnd)) {
        if (ends.size() > 0) unknown_tag(nullptr, line);
        break;
      }
      if (at(TokenType::kData)) {
        auto data = make(kConstant, line);
        data->value = Value(next().text);
        add_output(std::move(data), line);
      } else if (at(TokenType::kVariableBegin)) {
        next();
        add_output(tuple(true, {}, false), line);
        expect(at(TokenType::kVariableEnd), "end of print statement");
      } else {
        next();
        output = nullptr;
        if (at(TokenType::kName) && std::ranges::find(ends, current().text) != ends.end()) break;
        body.statements.push_back(statement());
        expect_block_end();
      }
    }
    if (ends.size() > 0) open_ends_.pop_back();
    return body;
  }

  Body statements_after_tag(std::initializer_list<std::string_view> ends) {
    take(":");
    expect_block_end();
    return statements(ends);
  }
  Body statements_and_end(std::string_view end) {
    Body body = statements_after_tag({end});
    next();
    return body;
  }

  std::unique_ptr<Statement> make_statement(StatementKind kind, int line) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  std::unique_ptr<Statement> statement() {
    const Depth depth(*this);
    if (!at(TokenType::kName)) syntax_error("tag name expected");
    const Token tag = current();
    open_tags_.push_back(tag.text);
    auto result = known_statement(tag);
    open_tags_.pop_back();
    return result;
  }

  std::unique_ptr<Statement> known_statement(const Token& tag) {
    if (tag.text == "for") return for_statement();
    if (tag.text == "if") return if_statement();
    if (tag.text == "set") return set_statement();
    if (tag.text == "macro") return macro();
    if (tag.text == "call") return call_block();
    if (tag.text == "filter") return filter_block();
    if (tag.text == "with") return with_statement();
    if (tag.text == "print") return print_statement();
    if (tag.text == "break" || tag.text == "continue") return loop_control();
    if (tag.text == "generation") return generation();
    if (tag.text == "block") return block();
    for (const std::string_view other : {"extends", "include", "import", "from", "autoescape"})
      if (tag.text == other)
        fail("Unsupported", fmt::format("the tag '{}' is not supported in a template of one file", other), tag.line);
    open_tags_.pop_back();
    unknown_tag(&tag, tag.line);
  }

  // Jinja2's message for a tag that is not known, or for the end of the template where one is missing.
  [[noreturn]] void unknown_tag(const Token* tag, int line) const {
    std::string message =
        tag ? fmt::format("Encountered unknown tag {}.", repr(tag->text)) : "Unexpected end of template.";
    if (!open_ends_.empty()) {
      std::string wanted;
      for (const std::string& end : open_ends_.back())
        wanted += fmt::format("{}'{}'", wanted.empty() ? "" : " or ", end);
      const bool nesting = tag && std::ranges::any_of(open_ends_, [&](const auto& ends) {
                             return std::ranges::find(ends, tag->text) != ends.end();
                           });
      message += nesting ? fmt::format(
                               " You probably made a nesting mistake. Jinja is expecting this tag, but currently "
                               "looking for {}.",
                               wanted)
                         : fmt::format(" Jinja was looking for the following tags: {}.", wanted);
    }
    if (!open_tags_.empty())
      message += fmt::format(" The innermost block that needs to be closed is '{}'.", open_tags_.back());
    syntax_error(std::move(message), line);
  }

  std::unique_ptr<Statement> for_statement() {
    auto result = make_statement(StatementKind::kFor, next().line);
    const int loop_targets = std::exchange(loop_targets_, 0);
    result->target = assign_target({"in"}, /*with_namespace=*/false);
    expect(at_name("in"), "in");
    result->expression = tuple(/*with_conditional=*/false, {"recursive"}, false);
    if (take_name("if")) result->condition = expression();
    result->recursive = take_name("recursive");
    ++loops_;
    result->body = statements_after_tag({"endfor", "else"});
    --loops_;
    if (next().text == "else") result->otherwise = statements_and_end("endfor");
    if (loop_targets_ > 0)
      fail("TemplateAssertionError", "Can't assign to special loop variable in for-loop target", result->line);
    loop_targets_ = loop_targets;
    return result;
  }

  std::unique_ptr<Statement> if_statement() {
    auto result = make_statement(StatementKind::kIf, next().line);
    result->condition = tuple(/*with_conditional=*/false, {}, false);
    result->body = statements_after_tag({"elif", "else", "endif"});
    // `elif` is an if in the else of the one before it.
    Statement* last = result.get();
    for (int count = 0; at_name("elif"); ++count) {
      if (count == kMaxDepth) syntax_error(fmt::format("more than {} elif, expected fewer", kMaxDepth));
      auto branch = make_statement(StatementKind::kIf, next().line);
      branch->condition = tuple(/*with_conditional=*/false, {}, false);
      branch->body = statements_after_tag({"elif", "else", "endif"});
      Statement* inner = branch.get();
      last->otherwise.statements.push_back(std::move(branch));
      last = inner;
    }
    if (next().text == "else") last->otherwise = statements_and_end("endif");
    return result;
  }

  std::unique_ptr<Statement> set_statement() {
    auto result = make_statement(StatementKind::kSet, next().line);
    result->target = assign_target({}, /*with_namespace=*/true);
    if (take("=")) {
      result->expression = tuple(true, {}, false);
      return result;
    }
    result->kind = StatementKind::kSetBlock;
    if (at("|")) result->expression = filters(nullptr, /*at_start=*/false);
    result->body = statements_and_end("endset");
    return result;
  }

  std::vector<Parameter> parameters() {
    std::vector<Parameter> result;
    expect("(");
    while (!at(")")) {
      if (!result.empty()) expect(",");
      Parameter parameter;
      parameter.name = name_target();
      parameter.symbol = symbol_of(parameter.name);
      if (take("=")) {
        parameter.otherwise = expression();
      } else if (!result.empty() && result.back().otherwise) {
        syntax_error("non-default argument follows default argument");
      }
      result.push_back(std::move(parameter));
    }
    expect(")");
    return result;
  }

  // The body of a function: loops around it do not count.
  Body function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = statements_and_end(end);
    loops_ = loops;
    return body;
  }

  std::unique_ptr<Statement> macro() {
    auto result = make_statement(StatementKind::kMacro, next().line);
    result->name = name_target();
    result->symbol = symbol_of(result->name);
    result->parameters = parameters();
    result->body = function_body("endmacro");
    return result;
  }

  std::unique_ptr<Statement> call_block() {
    auto result = make_statement(StatementKind::kCallBlock, next().line);
    if (at("(")) result->parameters = parameters();
    result->expression = expression();
    if (result->expression->kind != kCall) syntax_error("expected call", result->line);
    result->body = function_body("endcall");
    return result;
  }

  std::unique_ptr<Statement> filter_block() {
    auto result = make_statement(StatementKind::kFilterBlock, next().line);
    result->expression = filters(nullptr, /*at_start=*/true);
    result->body = statements_and_end("endfilter");
    return result;
  }

  std::unique_ptr<Statement> with_statement() {
    auto result = make_statement(StatementKind::kWith, next().line);
    while (!at(TokenType::kBlockEnd)) {
      if (!result->targets.empty()) expect(",");
      const int loop_targets = loop_targets_;
      result->targets.push_back(assign_target({}, /*with_namespace=*/false));
      loop_targets_ = loop_targets;
      expect("=");
      result->expressions.push_back(expression());
    }
    result->body = statements_and_end("endwith");
    return result;
  }

  std::unique_ptr<Statement> print_statement() {
    auto result = make_statement(StatementKind::kOutput, next().line);
    while (!at(TokenType::kBlockEnd)) {
      if (!result->expressions.empty()) expect(",");
      result->expressions.push_back(expression());
    }
    return result;
  }

  std::unique_ptr<Statement> loop_control() {
    const Token& tag = next();
    const bool is_break = tag.text == "break";
    if (loops_ == 0) syntax_error(is_break ? "'break' outside loop" : "'continue' not properly in loop", tag.line);
    return make_statement(is_break ? StatementKind::kBreak : StatementKind::kContinue, tag.line);
  }

  // transformers marks what the assistant says; here it is only a scope.
  std::unique_ptr<Statement> generation() {
    auto result = make_statement(StatementKind::kScope, next().line);
    result->body = function_body("endgeneration");
    return result;
  }

  std::unique_ptr<Statement> block() {
    auto result = make_statement(StatementKind::kScope, next().line);
    result->name = expect_any_name().text;
    result->at_root = !take_name("scoped");
    if (at_name("required")) fail("Unsupported", "required blocks are not supported", result->line);
    if (at("-"))
      syntax_error(
          "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an underscore "
          "instead.");
    if (!blocks_.insert(result->name).second)
      syntax_error(fmt::format("block {} defined twice", repr(result->name)), result->line);
    result->body = function_body("endblock");
    take_name(result->name);
    return result;
  }

  // --- targets of assignments

  std::string name_target() {
    const Token& token = expect_any_name();
    for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"})
      if (token.text == constant) syntax_error("can't assign to 'name'", token.line);
    return token.text;
  }

  ExpressionPointer assign_target(std::initializer_list<std::string_view> ends, bool with_namespace) {
    auto target = tuple(true, ends, false, /*simplified=*/true, with_namespace);
    if (!can_assign(*target)) syntax_error(fmt::format("can't assign to '{}'", node_name(target->kind)), target->line);
    return target;
  }

  bool can_assign(const Expression& target) {
    if (target.kind == kTuple)
      return std::ranges::all_of(target.operands, [&](const auto& part) { return can_assign(*part); });
    if (target.kind == kName && target.symbol == kLoopSymbol) ++loop_targets_;
    return target.kind == kName || target.kind == kNamespace;
  }

  // --- expressions

  ExpressionPointer make(ExpressionKind kind, int line) const {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->line = line;
    return expression;
  }
  template <class... Operands>
  ExpressionPointer make(ExpressionKind kind, int line, Operands... operands) const {
    auto expression = make(kind, line);
    (expression->operands.push_back(std::move(operands)), ...);
    return settled(std::move(expression));
  }

  // Every node passes through here when its parts are there.
  ExpressionPointer settled(ExpressionPointer expression) const {
    int depth = 0;
    const auto count = [&](const ExpressionPointer& part) {
      if (part) depth = std::max(depth, part->depth);
    };
    std::ranges::for_each(expression->operands, count);
    std::ranges::for_each(expression->arguments.positional, count);
    for (const auto& [name, part] : expression->arguments.named) count(part);
    count(expression->arguments.star);
    count(expression->arguments.star_star);
    expression->depth = depth + 1;
    if (expression->depth > kMaxTreeDepth)
      syntax_error(fmt::format("an expression of more than {} levels, expected fewer", kMaxTreeDepth));
    return expression;
  }

  // One expression, or several with commas between.
  ExpressionPointer tuple(bool with_conditional, std::initializer_list<std::string_view> ends, bool parentheses,
                          bool simplified = false, bool with_namespace = false) {
    const int line = current().line;
    std::vector<ExpressionPointer> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) expect(",");
      if (at(TokenType::kVariableEnd) || at(TokenType::kBlockEnd) || at(")") ||
          std::ranges::any_of(ends, [&](std::string_view end) { return at_name(end); }))
        break;
      items.push_back(simplified ? primary(with_namespace) : expression(with_conditional));
      if (!at(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!items.empty()) return std::move(items[0]);
      if (!parentheses) syntax_error(fmt::format("Expected an expression, got {}", repr(describe(current()))));
    }
    auto result = make(kTuple, line);
    result->operands = std::move(items);
    return settled(std::move(result));
  }

  ExpressionPointer expression(bool with_conditional = true) {
    const Depth depth(*this);
    return with_conditional ? conditional() : disjunction();
  }

  ExpressionPointer conditional() {
    const int line = current().line;
    auto result = disjunction();
    while (take_name("if")) {
      auto condition = disjunction();
      auto otherwise = take_name("else") ? expression() : nullptr;
      result = make(kConditional, line, std::move(result), std::move(condition), std::move(otherwise));
    }
    return result;
  }

  ExpressionPointer disjunction() {
    const int line = current().line;
    auto left = conjunction();
    while (take_name("or")) left = make(kOr, line, std::move(left), conjunction());
    return left;
  }

  ExpressionPointer conjunction() {
    const int line = current().line;
    auto left = negation();
    while (take_name("and")) left = make(kAnd, line, std::move(left), negation());
    return left;
  }

  ExpressionPointer negation() {
    if (!at_name("not")) return comparison();
    const Depth depth(*this);
    const int line = next().line;
    return make(kNot, line, negation());
  }

  ExpressionPointer comparison() {
    auto result = sum();
    ExpressionPointer chain;
    while (true) {
      const int line = current().line;
      std::string op;
      for (const std::string_view candidate : {"==", "!=", "<", "<=", ">", ">="})
        if (at(candidate)) op = candidate;
      if (at_name("in")) op = "in";
      if (at_name("not") && is(look(), TokenType::kName, "in")) {
        op = "not in";
        next();
      }
      if (op.empty()) break;
      next();
      if (!chain) chain = make(kCompare, line, std::move(result));
      chain->operators.push_back(op);
      chain->operands.push_back(sum());
    }
    return chain ? settled(std::move(chain)) : std::move(result);
  }

  ExpressionPointer binary_chain(ExpressionPointer (Parser::*operand)(),
                                 std::initializer_list<std::string_view> operators) {
    auto left = (this->*operand)();
    while (true) {
      const auto* op = std::ranges::find_if(operators, [&](std::string_view candidate) { return at(candidate); });
      if (op == operators.end()) return left;
      const int line = next().line;
      left = make(kBinary, line, std::move(left), (this->*operand)());
      left->name = *op;
    }
  }

  ExpressionPointer sum() { return binary_chain(&Parser::concatenation, {"+", "-"}); }

  ExpressionPointer concatenation() {
    const int line = current().line;
    auto first = product();
    if (!at("~")) return first;
    auto result = make(kConcat, line, std::move(first));
    while (take("~")) result->operands.push_back(product());
    return settled(std::move(result));
  }

  ExpressionPointer product() { return binary_chain(&Parser::power, {"*", "/", "//", "%"}); }
  ExpressionPointer power() { return binary_chain(&Parser::filtered_unary, {"**"}); }
  ExpressionPointer filtered_unary() { return unary(/*with_filters=*/true); }

  ExpressionPointer unary(bool with_filters) {
    const Depth depth(*this);
    const int line = current().line;
    ExpressionPointer result;
    if (take("-")) {
      result = make(kNegative, line, unary(false));
    } else if (take("+")) {
      result = make(kPositive, line, unary(false));
    } else {
      result = primary(/*with_namespace=*/false);
    }
    result = postfix(std::move(result));
    return with_filters ? filters_and_tests(std::move(result)) : std::move(result);
  }

  ExpressionPointer constant(Value value, int line) const {
    auto result = make(kConstant, line);
    result->value = std::move(value);
    return result;
  }

  ExpressionPointer primary(bool with_namespace) {
    const Token token = current();
    switch (token.type) {
      case TokenType::kName: {
        next();
        if (token.text == "true" || token.text == "True") return constant(true, token.line);
        if (token.text == "false" || token.text == "False") return constant(false, token.line);
        if (token.text == "none" || token.text == "None") return constant({}, token.line);
        auto name = make(kName, token.line);
        name->name = token.text;
        name->symbol = symbol_of(token.text);
        if (with_namespace && take(".")) {
          name->kind = kNamespace;
          name->attribute = expect_any_name().text;
        }
        return name;
      }
      case TokenType::kString: {
        std::string text;
        while (at(TokenType::kString)) text += next().text;
        return constant(text, token.line);
      }
      case TokenType::kInteger:
        next();
        return constant(token.integer, token.line);
      case TokenType::kFloat:
        next();
        return constant(token.number, token.line);
      default:
        break;
    }
    if (take("(")) {
      const Depth depth(*this);
      auto inside = tuple(true, {}, /*parentheses=*/true);
      expect(")");
      return inside;
    }
    if (at("[")) return list();
    if (at("{")) return dict();
    syntax_error(fmt::format("unexpected {}", repr(describe(token))), token.line);
  }

  ExpressionPointer list() {
    auto result = make(kList, next().line);
    while (!at("]")) {
      if (!result->operands.empty()) expect(",");
      if (at("]")) break;
      result->operands.push_back(expression());
    }
    expect("]");
    return settled(std::move(result));
  }

  ExpressionPointer dict() {
    auto result = make(kDict, next().line);
    while (!at("}")) {
      if (!result->operands.empty()) expect(",");
      if (at("}")) break;
      result->operands.push_back(expression());
      expect(":");
      result->operands.push_back(expression());
    }
    expect("}");
    return settled(std::move(result));
  }

  ExpressionPointer postfix(ExpressionPointer operand) {
    while (true) {
      if (at(".") || at("[")) {
        operand = subscript(std::move(operand));
      } else if (at("(")) {
        operand = call(std::move(operand));
      } else {
        return operand;
      }
    }
  }

  ExpressionPointer filters_and_tests(ExpressionPointer operand) {
    while (true) {
      if (at("|")) {
        operand = filters(std::move(operand), /*at_start=*/false);
      } else if (at_name("is")) {
        operand = test(std::move(operand));
      } else if (at("(")) {
        operand = call(std::move(operand));
      } else {
        return operand;
      }
    }
  }

  ExpressionPointer subscript(ExpressionPointer operand) {
    const Token token = next();
    if (token.text == ".") {
      const Token name = next();
      if (name.type == TokenType::kName) {
        auto result = make(kAttribute, token.line, std::move(operand));
        result->name = name.text;
        return result;
      }
      if (name.type != TokenType::kInteger) syntax_error("expected name or number", name.line);
      return make(kItem, token.line, std::move(operand), constant(name.integer, name.line));
    }
    std::vector<ExpressionPointer> keys;
    while (!at("]")) {
      if (!keys.empty()) expect(",");
      keys.push_back(subscribed());
    }
    expect("]");
    if (keys.size() == 1 && keys[0]->kind == kSlice) {
      keys[0]->operands[0] = std::move(operand);
      return settled(std::move(keys[0]));
    }
    for (const auto& key : keys)
      if (key->kind == kSlice && !key->operands[0])
        fail("Unsupported", "slices in a tuple of keys are not supported", token.line);
    if (keys.size() == 1) return make(kItem, token.line, std::move(operand), std::move(keys[0]));
    auto key = make(kTuple, token.line);
    key->operands = std::move(keys);
    return make(kItem, token.line, std::move(operand), settled(std::move(key)));
  }

  // A key, or a slice whose operand is still missing.
  ExpressionPointer subscribed() {
    const int line = current().line;
    ExpressionPointer start;
    if (!at(":")) {
      start = expression();
      if (!at(":")) return start;
    }
    next();
    ExpressionPointer stop;
    ExpressionPointer step;
    if (!at(":") && !at("]") && !at(",")) stop = expression();
    if (take(":") && !at("]") && !at(",")) step = expression();
    return make(kSlice, line, ExpressionPointer(), std::move(start), std::move(stop), std::move(step));
  }

  CallArguments call_arguments() {
    const int line = expect("(").line;
    CallArguments arguments;
    const auto ensure = [&](bool condition) {
      if (!condition) syntax_error("invalid syntax for function call expression", line);
    };
    bool need_comma = false;
    while (!at(")")) {
      if (need_comma) {
        expect(",");
        if (at(")")) break;
      }
      need_comma = true;
      if (take("*")) {
        ensure(!arguments.star && !arguments.star_star);
        arguments.star = expression();
      } else if (take("**")) {
        ensure(!arguments.star_star);
        arguments.star_star = expression();
      } else if (at(TokenType::kName) && is(look(), TokenType::kOperator, "=")) {
        ensure(!arguments.star_star);
        std::string name = next().text;
        next();
        arguments.named.emplace_back(std::move(name), expression());
      } else {
        ensure(!arguments.star && !arguments.star_star && arguments.named.empty());
        arguments.positional.push_back(expression());
      }
    }
    expect(")");
    return arguments;
  }

  ExpressionPointer call(ExpressionPointer operand) {
    auto result = make(kCall, current().line, std::move(operand));
    result->arguments = call_arguments();
    return settled(std::move(result));
  }

  std::string dotted_name() {
    std::string name = expect_any_name().text;
    while (take(".")) name += "." + expect_any_name().text;
    return name;
  }

  // `operand | name(...) | name(...)`; a filter block starts without the bar.
  ExpressionPointer filters(ExpressionPointer operand, bool at_start) {
    while (at_start || at("|")) {
      if (!at_start) next();
      at_start = false;
      auto result = make(kFilter, current().line, std::move(operand));
      result->name = dotted_name();
      if (at("(")) result->arguments = call_arguments();
      operand = settled(std::move(result));
    }
    return operand;
  }

  ExpressionPointer test(ExpressionPointer operand) {
    const int line = next().line;
    const bool negated = take_name("not");
    auto result = make(kTest, line, std::move(operand));
    result->name = dotted_name();
    if (at("(")) {
      result->arguments = call_arguments();
    } else if ((at(TokenType::kName) && !at_name("else") && !at_name("or") && !at_name("and")) ||
               at(TokenType::kString) || at(TokenType::kInteger) || at(TokenType::kFloat) || at("[") || at("{")) {
      if (at_name("is")) syntax_error("You cannot chain multiple tests with is");
      result->arguments.positional.push_back(postfix(primary(/*with_namespace=*/false)));
    }
    result = settled(std::move(result));
    return negated ? make(kNot, line, std::move(result)) : std::move(result);
  }

  Tokens tokens_;
  std::size_t place_ = 0;
  int depth_ = 0;
  int loops_ = 0;         // loops around the current statement, in its function
  int loop_targets_ = 0;  // assignments to `loop` in the current for
  std::vector<std::vector<std::string>> open_ends_;
  std::vector<std::string> open_tags_;
  std::unordered_set<std::string> blocks_;
  std::unordered_map<std::string, int> numbers_;
  Syntax syntax_;
};

}  // namespace

Syntax parse(std::string_view source) {
  Syntax syntax = Parser(source).run();
  analyze(syntax);
  return syntax;
}

}  // namespace sao::jinja
