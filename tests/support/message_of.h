// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "sao/base/error.h"

namespace sao::testing {

template <class F>
std::string message_of(F&& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace sao::testing
