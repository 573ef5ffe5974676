// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <functional>

#include "sao/base/device.h"
#include "sao/base/error.h"
#include "sao/loop/round.h"

namespace sao {

void validate(const RunSettings& settings) {
  std::string problems;
  const auto add = [&](const std::string& problem) { problems += (problems.empty() ? "" : "; ") + problem; };
  const auto check = [&](const std::string& name, const std::function<void()>& validate_part) {
    try {
      validate_part();
    } catch (const InputError& error) {
      add(name.empty() ? error.what() : fmt::format("{}: {}", name, error.what()));
    }
  };
  if (settings.model.empty()) add("model: none, expected a Hugging Face folder");
  if (settings.rounds < 1) add(fmt::format("rounds: {}, expected at least 1", settings.rounds));
  if (settings.prompts.count < 0 || (settings.prompts.count == 0 && settings.personas.empty())) {
    add(fmt::format("prompts.count: {} {} personas, expected personas or a positive count", settings.prompts.count,
                    settings.personas.empty() ? "without" : "with"));
  }
  if (settings.responses.samples < 2) {
    add(fmt::format("responses.samples: {}, expected at least 2 to compare", settings.responses.samples));
  }
  if (settings.reference != "start" && settings.reference != "base") {
    add(fmt::format("reference: \"{}\", expected start or base", settings.reference));
  }
  if (settings.eval.count < 0) add(fmt::format("eval.count: {}, expected 0 or more", settings.eval.count));
  check("", [&] { parse_device(settings.device); });
  check("", [&] {
    if (parse_dtype(settings.dtype) == DType::kFloat16) {
      throw InputError("dtype: \"float16\", expected float32 or bfloat16: training in float16 overflows");
    }
  });
  check("prompts.sampling", [&] { validate(settings.prompts.sampling); });
  check("prompts.filters", [&] { validate(settings.prompts.filters); });
  check("responses.sampling", [&] { validate(settings.responses.sampling); });
  check("judge", [&] { validate(settings.judge); });
  check("train", [&] { validate(settings.train); });
  check("pairs", [&] { validate(settings.pairs); });
  check("eval.compare", [&] { validate(settings.eval.compare); });
  check("engine", [&] { validate(settings.engine); });
  if (!problems.empty()) throw InputError("run settings: " + problems);
}

}  // namespace sao
