// SPDX-License-Identifier: Apache-2.0
// The settings of a run as arguments, for the commands that take them.
#pragma once

#include <sao/loop/round.h>

#include <string>

#include "arguments.h"

namespace sao::cli {

inline void add_run_settings(Arguments& arguments, RunSettings& settings) {
  arguments.add_fields(settings, [&settings](const std::string& path) {
    std::string flag;
    visit_settings([&](const std::string& settable, auto&, const char*) { flag = settable == path ? path : flag; },
                   settings);
    return with_dashes(flag.empty() && path.find(".loss.") != std::string::npos ? path : flag);
  });
}

}  // namespace sao::cli
