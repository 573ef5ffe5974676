// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/alpaca_outputs.h"

#include <fmt/format.h>

#include <cmath>
#include <deque>
#include <limits>
#include <unordered_map>

#include "base/utf8.h"
#include "io/json.h"
#include "sao/base/error.h"
#include "sao/io/jsonl.h"

namespace sao {

using detail::OrderedJson;

std::vector<AlpacaOutput> read_alpaca_outputs(const std::filesystem::path& file) {
  std::vector<AlpacaOutput> outputs;
  for_each_line(file, [&](std::string_view line) {
    const detail::Json row = detail::parse_json_object(line, "");
    outputs.push_back({.instruction = detail::get_field<std::string>(row, "instruction", ""),
                       .output = detail::get_field<std::string>(row, "output", ""),
                       .generator = detail::find_field<std::string>(row, "generator", "").value_or(""),
                       .dataset = detail::find_field<std::string>(row, "dataset", "").value_or("")});
  });
  if (outputs.empty()) throw InputError(fmt::format("{}: no rows, expected answers", file.string()));
  return outputs;
}

std::string alpaca_outputs_json(std::span<const AlpacaOutput> outputs) {
  OrderedJson list = OrderedJson::array();
  for (const AlpacaOutput& one : outputs) {
    OrderedJson row = OrderedJson::object();
    if (!one.dataset.empty()) row["dataset"] = one.dataset;
    row["instruction"] = one.instruction;
    row["output"] = one.output;
    row["generator"] = one.generator;
    list.push_back(std::move(row));
  }
  return detail::dump_json_pretty(list);
}

std::vector<AlpacaPair> pair_alpaca_outputs(std::span<const AlpacaOutput> model,
                                            std::span<const AlpacaOutput> baseline) {
  std::unordered_map<std::string, std::deque<const AlpacaOutput*>> waiting;
  for (const AlpacaOutput& one : baseline) waiting[one.instruction].push_back(&one);
  std::vector<AlpacaPair> pairs;
  for (const AlpacaOutput& one : model) {
    const auto found = waiting.find(one.instruction);
    if (found == waiting.end() || found->second.empty()) {
      const std::string start = one.instruction.substr(0, 60);
      throw InputError(fmt::format("answers: the baseline has none to {}, expected one to each instruction",
                                   detail::describe_json(detail::replace_invalid_utf8(start))));
    }
    pairs.push_back({.baseline = *found->second.front(), .model = one});
    found->second.pop_front();
  }
  return pairs;
}

std::vector<JudgeItem> judge_items(std::span<const AlpacaPair> pairs) {
  std::vector<JudgeItem> items;
  for (const AlpacaPair& pair : pairs) {
    items.push_back({.id = std::to_string(items.size()),
                     .prompt = pair.model.instruction,
                     .first = pair.baseline.output,
                     .second = pair.model.output});
  }
  return items;
}

double alpaca_preference(const Verdict& verdict, const AlpacaPair& pair) {
  if (has_probability(verdict)) return 2.0 - verdict.p_first;
  if (verdict.outcome == "identical") return 1.5;
  if (verdict.outcome == "empty") {
    const bool baseline_empty = detail::strip(pair.baseline.output).empty();
    if (baseline_empty == detail::strip(pair.model.output).empty()) return 1.5;
    return baseline_empty ? 2.0 : 1.0;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

std::string alpaca_annotations_json(std::span<const AlpacaPair> pairs, std::span<const Verdict> verdicts,
                                    const std::string& annotator) {
  if (pairs.size() != verdicts.size()) {
    throw InputError(
        fmt::format("annotations: {} verdicts for {} pairs, expected as many", verdicts.size(), pairs.size()));
  }
  OrderedJson list = OrderedJson::array();
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto& [baseline, model] = pairs[i];
    OrderedJson row = OrderedJson::object();
    row["instruction"] = model.instruction;
    if (!model.dataset.empty()) row["dataset"] = model.dataset;
    row["output_1"] = baseline.output;
    row["generator_1"] = baseline.generator;
    row["output_2"] = model.output;
    row["generator_2"] = model.generator;
    row["annotator"] = annotator;
    row["preference"] = alpaca_preference(verdicts[i], pairs[i]);  // NaN is written as null
    list.push_back(std::move(row));
  }
  return detail::dump_json_pretty(list);
}

}  // namespace sao
