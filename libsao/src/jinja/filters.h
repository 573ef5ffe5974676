// SPDX-License-Identifier: Apache-2.0
// Jinja2's filters, tests and global functions.
#pragma once

#include <string_view>

#include "jinja/objects.h"

namespace sao::jinja {

/// `self` is what stands before the bar or before `is`. Null where there is none of that name.
NativeFunction find_filter(std::string_view name);
NativeFunction find_test(std::string_view name);
/// A global function as a value; nothing where there is none of that name.
std::optional<Value> find_global(Runtime& runtime, std::string_view name);

}  // namespace sao::jinja
