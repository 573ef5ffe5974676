// SPDX-License-Identifier: Apache-2.0
// Tokens to a syntax tree: the grammar of Jinja2 3.1.
#pragma once

#include <string_view>

#include "jinja/ast.h"

namespace sao::jinja {

/// Throws a Failure with the line, in Jinja2's words.
Syntax parse(std::string_view source);

/// Fills in Body::undefined_at_start and Statement::uses_* (follows jinja2/idtracking.py), and throws a Failure for a
/// filter or test that does not exist; those inside an if are an error only where they are used.
void analyze(Syntax& syntax);

}  // namespace sao::jinja
