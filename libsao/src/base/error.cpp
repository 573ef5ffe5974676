// SPDX-License-Identifier: Apache-2.0
#include "sao/base/error.h"

#include <fmt/format.h>

namespace sao::detail {

void throw_internal_error(const char* file, int line, const char* condition) {
  throw InternalError(
      fmt::format("{}:{}: {} does not hold; this is a bug in libsao, please report it", file, line, condition));
}

}  // namespace sao::detail
