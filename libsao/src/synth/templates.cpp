// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/templates.h"

#include <fmt/format.h>

#include <array>

#include "sao/base/error.h"
#include "sao/text/placeholders.h"
#include "text/template_file.h"

namespace sao {

PromptTemplates load_prompt_templates(const std::filesystem::path& file) {
  const nlohmann::json object = detail::read_template_file(file);
  PromptTemplates templates;
  detail::read_template_field(object, file, "persona", templates.persona);
  detail::read_template_field(object, file, "unguided", templates.unguided);
  validate(templates, file.string());
  return templates;
}

PromptTemplates find_prompt_templates(const std::filesystem::path& model_folder) {
  const std::filesystem::path file = model_folder / "sao_templates.json";
  return std::filesystem::exists(file) ? load_prompt_templates(file) : PromptTemplates{};
}

void validate(const PromptTemplates& templates, std::string_view where) {
  constexpr std::array<std::string_view, 1> kRequired = {"persona"};
  check_placeholders(fmt::format("{}: persona", where), templates.persona, kRequired);
  check_placeholders(fmt::format("{}: unguided", where), templates.unguided, {});
  if (templates.unguided.empty()) throw InputError(fmt::format("{}: unguided: empty, expected text", where));
}

}  // namespace sao
