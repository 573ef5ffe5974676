// SPDX-License-Identifier: Apache-2.0
#include "sao/model/lora.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

#include "model/lora.h"
#include "model/weights.h"
#include "sao/base/error.h"

namespace sao {
namespace {

using detail::LinearShape;

// The last parts of the names of all linears, each once.
std::vector<std::string> kinds_of(const std::vector<LinearShape>& linears) {
  std::vector<std::string> kinds;
  for (const LinearShape& linear : linears) {
    const std::string kind = detail::last_part(linear.name);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  return kinds;
}

}  // namespace

namespace detail {

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

std::vector<std::string> split_names(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view name = text.substr(0, comma);
    while (name.starts_with(' ')) name.remove_prefix(1);
    while (name.ends_with(' ')) name.remove_suffix(1);
    if (!name.empty()) names.emplace_back(name);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return names;
}

std::vector<LinearShape> linear_shapes(const ModelConfig& config) {
  Weights weights;
  std::map<const at::Tensor*, std::vector<std::int64_t>> shapes;
  for (const Slot& slot : slots(config, weights)) shapes[slot.tensor] = slot.shape;
  std::vector<LinearShape> list;
  for (const LayerWeights& layer : weights.layers) {
    for (const Projection* projection : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      for (const Linear& linear : *projection) {
        const std::vector<std::int64_t>& shape = shapes.at(&linear.weight);
        list.push_back({linear.name, shape[1], shape[0]});
      }
    }
  }
  return list;
}

bool is_target(std::string_view name, std::string_view target) {
  if (!name.ends_with(target)) return false;
  return name.size() == target.size() || name[name.size() - target.size() - 1] == '.';
}

double lora_scaling(double alpha, std::int64_t rank, bool use_rslora) {
  const auto r = static_cast<double>(rank);
  return alpha / (use_rslora ? std::sqrt(r) : r);
}

std::string why_no_adapter(std::string_view target) {
  if (is_target(target, "lm_head")) {
    return "log-probs are computed from the output matrix directly, so that an adapter on it would never be used";
  }
  if (is_target(target, "embed_tokens")) return "adapters of the embedding are not supported";
  return {};
}

}  // namespace detail

void validate(const LoraOptions& options) {
  std::vector<std::string> problems;
  const auto need = [&](bool good, std::string_view field, const auto& found, std::string_view expected) {
    if (!good) problems.push_back(fmt::format("{} is {}, expected {}", field, found, expected));
  };
  need(options.r >= 1, "r", options.r, "at least 1");
  need(std::isfinite(options.lora_alpha) && options.lora_alpha > 0.0, "lora_alpha", options.lora_alpha, "above 0");
  need(options.lora_dropout >= 0.0 && options.lora_dropout < 1.0, "lora_dropout", options.lora_dropout, "0 to below 1");
  need(!detail::split_names(options.target_modules).empty(), "target_modules", "\"" + options.target_modules + "\"",
       "all-linear or names of linears");
  if (!problems.empty()) throw InputError(fmt::format("lora: {}", fmt::join(problems, "; ")));
}

LoraAdapter LoraAdapter::random(const ModelConfig& config, const LoraOptions& options, Seed seed) {
  validate(options);
  const std::vector<LinearShape> linears = detail::linear_shapes(config);
  const std::vector<std::string> targets = detail::split_names(options.target_modules);
  const bool all = targets.size() == 1 && targets[0] == "all-linear";
  for (const std::string& target : targets) {
    if (all) break;
    if (const std::string why = detail::why_no_adapter(target); !why.empty()) {
      throw InputError(
          fmt::format("lora: target_modules names \"{}\", expected linears of the layers: {}", target, why));
    }
    const auto is_this = [&](const LinearShape& linear) { return detail::is_target(linear.name, target); };
    if (std::none_of(linears.begin(), linears.end(), is_this)) {
      throw InputError(fmt::format("lora: target_modules names \"{}\", expected all-linear or some of {}", target,
                                   fmt::join(kinds_of(linears), ", ")));
    }
  }
  LoraAdapter adapter{.options = options};
  for (const LinearShape& linear : linears) {
    const auto names_it = [&](const std::string& target) { return detail::is_target(linear.name, target); };
    if (!all && std::none_of(targets.begin(), targets.end(), names_it)) continue;
    LoraModule module{.name = linear.name,
                      .a = at::empty({options.r, linear.inputs}, at::kFloat),
                      .b = at::zeros({linear.outputs, options.r}, at::kFloat),
                      .alpha = options.lora_alpha,
                      .scaling = detail::lora_scaling(options.lora_alpha, options.r, options.use_rslora)};
    const double bound = 1.0 / std::sqrt(static_cast<double>(linear.inputs));
    const Seed stream = seed.fork(linear.name);
    float* a = module.a.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < module.a.numel(); ++i) {
      a[i] = static_cast<float>(bound * (2.0 * uniform(stream, static_cast<std::uint64_t>(i)) - 1.0));
    }
    adapter.modules.push_back(std::move(module));
  }
  return adapter;
}

NamedTensors LoraAdapter::parameters() const {
  NamedTensors list;
  for (const LoraModule& module : modules) {
    list.emplace_back(module.name + ".lora_A.weight", module.a);
    list.emplace_back(module.name + ".lora_B.weight", module.b);
  }
  return list;
}

}  // namespace sao
