// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/templates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sao/base/error.h"
#include "sao/text/placeholders.h"
#include "text/template_file.h"

namespace sao {
namespace {

bool has_place_for_criteria(const std::string& judge) {
  const std::vector<std::string> names = placeholder_names(judge);
  return std::find(names.begin(), names.end(), "criteria") != names.end();
}

std::string numbered(const std::vector<std::string>& criteria) {
  std::string text;
  for (std::size_t i = 0; i < criteria.size(); ++i) {
    text += fmt::format("{}{}. {}", i == 0 ? "" : "\n", i + 1, criteria[i]);
  }
  return text;
}

}  // namespace

JudgeTemplates load_judge_templates(const std::filesystem::path& file) {
  const nlohmann::json object = detail::read_template_file(file);
  JudgeTemplates templates;
  detail::read_template_field(object, file, "judge", templates.judge);
  detail::read_template_field(object, file, "judge_prefix", templates.judge_prefix);
  detail::read_template_field(object, file, "judge_first", templates.judge_first);
  detail::read_template_field(object, file, "judge_second", templates.judge_second);
  if (const auto criteria = object.find("criteria"); criteria != object.end()) {
    const auto is_string = [](const nlohmann::json& value) { return value.is_string(); };
    if (!criteria->is_array() || !std::all_of(criteria->begin(), criteria->end(), is_string)) {
      throw InputError(fmt::format("{}: criteria: not a list of strings, expected one", file.string()));
    }
    templates.criteria = criteria->get<std::vector<std::string>>();
  } else if (!has_place_for_criteria(templates.judge)) {
    templates.criteria.clear();
  }
  validate(templates, file.string());
  return templates;
}

JudgeTemplates find_judge_templates(const std::filesystem::path& model_folder) {
  const std::filesystem::path file = model_folder / "sao_templates.json";
  return std::filesystem::exists(file) ? load_judge_templates(file) : JudgeTemplates{};
}

void validate(const JudgeTemplates& templates, std::string_view where) {
  constexpr std::array<std::string_view, 3> kRequired = {"prompt", "first", "second"};
  constexpr std::array<std::string_view, 1> kOptional = {"criteria"};
  check_placeholders(fmt::format("{}: judge", where), templates.judge, kRequired, kOptional);
  if (!templates.criteria.empty() && !has_place_for_criteria(templates.judge)) {
    throw InputError(
        fmt::format("{}: judge: no {{criteria}} in it, expected one for the {} criteria; or leave the "
                    "criteria empty",
                    where, templates.criteria.size()));
  }
  if (templates.judge_first.empty() || templates.judge_second.empty() ||
      templates.judge_first == templates.judge_second) {
    throw InputError(fmt::format("{}: judge_first and judge_second: \"{}\" and \"{}\", expected two different answers",
                                 where, templates.judge_first, templates.judge_second));
  }
}

std::string render_judge_prompt(const JudgeTemplates& templates, std::string_view prompt, std::string_view first,
                                std::string_view second) {
  const std::string criteria = numbered(templates.criteria);
  const std::array<PlaceholderValue, 4> values = {
      {{"criteria", criteria}, {"prompt", prompt}, {"first", first}, {"second", second}}};
  return fill_placeholders(templates.judge, values);
}

}  // namespace sao
