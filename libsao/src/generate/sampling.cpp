// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/sampling.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <string>
#include <vector>

#include "sao/base/error.h"

namespace sao {

void validate(const SamplingOptions& options) {
  std::vector<std::string> problems;
  if (!(options.temperature >= 0.0 && std::isfinite(options.temperature))) {
    problems.push_back(fmt::format("temperature is {}, expected a number >= 0", options.temperature));
  }
  if (options.top_k < 0) problems.push_back(fmt::format("top_k is {}, expected >= 0 (0 keeps all)", options.top_k));
  if (!(options.top_p > 0.0 && options.top_p <= 1.0)) {
    problems.push_back(fmt::format("top_p is {}, expected > 0 and <= 1", options.top_p));
  }
  if (!(options.min_p >= 0.0 && options.min_p <= 1.0)) {
    problems.push_back(fmt::format("min_p is {}, expected 0 to 1", options.min_p));
  }
  if (options.max_new_tokens < 1) {
    problems.push_back(fmt::format("max_new_tokens is {}, expected at least 1", options.max_new_tokens));
  }
  if (!problems.empty()) throw InputError(fmt::format("sampling options: {}", fmt::join(problems, "; ")));
}

}  // namespace sao
