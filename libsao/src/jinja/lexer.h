// SPDX-License-Identifier: Apache-2.0
// A template's text to tokens, with Jinja2's rules for white space around tags (trim_blocks and lstrip_blocks on).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/failure.h"

namespace sao::jinja {

enum class TokenType {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
  kFailure,  // what comes next is no token; the parser may find an error before it
};

struct Token {
  TokenType type = TokenType::kEnd;
  int line = 1;
  std::string text = {};  // data, a name, an operator, the value of a string
  std::int64_t integer = 0;
  double number = 0;
};

struct Tokens {
  std::vector<Token> list = {};         // the last one is kEnd or kFailure
  std::optional<Failure> failure = {};  // of kFailure, with the line
};

/// `source` is valid UTF-8.
Tokens tokenize(std::string_view source);

/// As messages name a token: a name itself, "end of print statement", ...
std::string describe(const Token& token);

}  // namespace sao::jinja
