// SPDX-License-Identifier: Apache-2.0
// Adapters in the folder format of Hugging Face's PEFT.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>

#include "io/json.h"
#include "io/paths.h"
#include "model/finite.h"
#include "model/lora.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/model/lora.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

using detail::describe_json;
using detail::Json;
using detail::LinearShape;
using detail::OrderedJson;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorsFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";  // of every tensor's name
constexpr std::uint64_t kMaxConfigBytes = 16 << 20;
constexpr double kMostRank = 1e9;

// Fields without a say in what a finished adapter computes, or which the file of tensors answers better.
constexpr std::array kIgnored = {"auto_mapping",
                                 "base_model_name_or_path",
                                 "corda_config",
                                 "ensure_weight_tying",
                                 "eva_config",
                                 "exclude_modules",
                                 "inference_mode",
                                 "layers_pattern",
                                 "layers_to_transform",
                                 "loftq_config",
                                 "lora_ga_config",
                                 "megatron_core",
                                 "peft_version",
                                 "qalora_group_size",
                                 "revision",
                                 "runtime_config",
                                 "task_type"};
// Fields that are read.
constexpr std::array kRead = {
    "peft_type",     "r",    "lora_alpha",       "lora_dropout", "target_modules", "use_rslora", "rank_pattern",
    "alpha_pattern", "bias", "init_lora_weights"};
// Initialisations after which the base is the one that the adapter was trained on. Others take a part out of it.
constexpr std::array kPlainInitialisations = {"gaussian", "eva", "orthogonal"};

template <class List>
bool holds(const List& list, std::string_view text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

bool is_nothing(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         ((value.is_object() || value.is_array()) && value.empty());
}

// Everything that would change what the adapter computes and that libsao does not have.
void refuse_variants(const Json& config, const std::string& where) {
  const auto kind = detail::get_field<std::string>(config, "peft_type", where);
  if (kind != "LORA") detail::throw_field_error(where, "peft_type", kind, "\"LORA\"");
  if (const auto bias = detail::find_field<std::string>(config, "bias", where); bias && *bias != "none") {
    detail::throw_field_error(where, "bias", *bias, "\"none\": biases are not trained");
  }
  if (const auto start = config.find("init_lora_weights"); start != config.end() && start->is_string()) {
    const auto name = start->get<std::string>();
    if (!holds(kPlainInitialisations, name)) {
      detail::throw_field_error(where, "init_lora_weights", name,
                                "true, false or \"gaussian\": others change the base model's weights; let PEFT convert "
                                "the adapter (path_initial_model_for_weight_conversion)");
    }
  }
  for (const auto& [name, value] : config.items()) {
    if (is_nothing(value) || holds(kIgnored, name) || holds(kRead, name)) continue;
    detail::throw_field_error(where, name, value, "none: libsao has no such variant of LoRA");
  }
}

// {"q_proj": 3.0, ...}: a number for all modules of a name. In PEFT the keys are regular expressions.
struct Pattern {
  std::map<std::string, double> values = {};  // by name without "^"

  static Pattern read(const Json& config, const char* field, const std::string& where) {
    Pattern pattern;
    const auto found = config.find(field);
    if (found == config.end() || found->is_null()) return pattern;
    if (!found->is_object()) detail::throw_field_error(where, field, *found, "an object from names to numbers");
    for (const auto& [key, value] : found->items()) {
      const std::string name = key.starts_with('^') ? key.substr(1) : key;
      const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
      });
      if (!plain) {
        throw InputError(
            fmt::format("{}: field \"{}\" has the key {}, expected names of modules: \"q_proj\" or "
                        "\"model.layers.0.self_attn.q_proj\"",
                        where, field, describe_json(key)));
      }
      double number = 0.0;
      if (!detail::JsonForm<double>::read(value, number) || !std::isfinite(number) || number <= 0.0) {
        detail::throw_field_error(where, std::string(field) + "\": \"" + key, value, "a number above 0");
      }
      pattern.values[name] = number;
    }
    return pattern;
  }

  std::optional<double> find(const std::string& module, const char* field, const std::string& where) const {
    std::optional<double> found;
    for (const auto& [name, value] : values) {
      if (!detail::is_target(module, name)) continue;
      if (found && *found != value) {
        throw InputError(fmt::format("{}: field \"{}\" gives module \"{}\" two numbers, {} and {}, expected one", where,
                                     field, module, *found, value));
      }
      found = value;
    }
    return found;
  }
};

// The names in target_modules; nothing where it is a regular expression, or all linears.
std::optional<std::vector<std::string>> read_targets(const Json& config, const std::string& where) {
  const auto found = config.find("target_modules");
  if (found == config.end() || found->is_null() || found->is_string()) return std::nullopt;
  std::vector<std::string> names;
  if (!detail::JsonForm<std::vector<std::string>>::read(*found, names)) {
    detail::throw_field_error(where, "target_modules", *found, "a list of names, or a string");
  }
  return names;
}

struct Halves {
  std::string a = {}, b = {};  // names of the tensors
};

// Module -> its two tensors.
std::map<std::string, Halves> find_modules(const SafetensorsFile& file) {
  std::map<std::string, Halves> modules;
  for (const std::string& tensor : file.names()) {
    std::string_view name = tensor;
    const auto refuse = [&](std::string_view expected) {
      throw InputError(fmt::format("{}: tensor \"{}\", expected {}", file.path().string(), tensor, expected));
    };
    if (!name.starts_with(kPrefix)) refuse("names that begin with base_model.model.");
    name.remove_prefix(kPrefix.size());
    constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight";
    const bool is_a = name.ends_with(kA), is_b = name.ends_with(kB);
    const std::string module(name.substr(0, std::min({name.find(".lora_"), name.rfind('.'), name.size()})));
    if (const std::string why = detail::why_no_adapter(module); !why.empty()) {
      refuse("adapters of the layers' linears alone: " + why);
    }
    if (!is_a && !is_b)
      refuse("names that end in lora_A.weight or lora_B.weight: libsao has no other part of an adapter");
    (is_a ? modules[module].a : modules[module].b) = tensor;
  }
  return modules;
}

at::Tensor read_matrix(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& info = file.info(name);
  const bool wide = info.dtype == "F64";
  if (!wide && info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16") {
    throw InputError(fmt::format("{}: tensor \"{}\" has dtype {}, expected F32, BF16, F16 or F64", file.path().string(),
                                 name, info.dtype));
  }
  const at::Tensor stored = file.tensor(name);
  if (const auto place = detail::find_not_finite(stored)) {
    throw InputError(fmt::format("{}: tensor \"{}\" holds {} at [{}], expected finite numbers", file.path().string(),
                                 name, place->value, fmt::join(place->index, ", ")));
  }
  return stored.to(wide ? at::kDouble : at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

// Names that name the adapter's modules and no other linear: the last part where all layers have one, else the whole.
std::set<std::string> covering_targets(const LoraAdapter& adapter, const std::vector<LinearShape>& linears) {
  std::map<std::string, std::int64_t> missing;
  for (const LinearShape& linear : linears) ++missing[detail::last_part(linear.name)];
  for (const LoraModule& module : adapter.modules) --missing[detail::last_part(module.name)];
  std::set<std::string> targets;
  for (const LoraModule& module : adapter.modules) {
    const std::string kind = detail::last_part(module.name);
    targets.insert(missing[kind] == 0 ? kind : module.name);
  }
  return targets;
}

OrderedJson number(double value) {
  constexpr double kExact = 1e15;  // below it a whole number is exact as either
  if (value != std::trunc(value) || std::abs(value) > kExact) return value;
  return static_cast<std::int64_t>(value);
}

}  // namespace

LoraAdapter LoraAdapter::load(const fs::path& folder, const ModelConfig& config) {
  if (!detail::exists(folder / kConfigFile)) {
    throw InputError(
        fmt::format("{}: no {}, expected an adapter's folder as PEFT writes it", folder.string(), kConfigFile));
  }
  if (!detail::exists(folder / kTensorsFile)) {
    throw InputError(
        fmt::format("{}: no {}, expected one{}", folder.string(), kTensorsFile,
                    detail::exists(folder / "adapter_model.bin") ? "; convert adapter_model.bin to safetensors" : ""));
  }
  const std::string where = (folder / kConfigFile).string();
  const Json json = detail::parse_json_object(read_file(folder / kConfigFile, kMaxConfigBytes), where);
  refuse_variants(json, where);
  LoraAdapter adapter;
  LoraOptions& options = adapter.options;
  options.r = detail::get_field<std::int64_t>(json, "r", where);
  options.lora_alpha = detail::get_field<double>(json, "lora_alpha", where);
  options.lora_dropout = detail::find_field<double>(json, "lora_dropout", where).value_or(0.0);
  options.use_rslora = detail::find_field<bool>(json, "use_rslora", where).value_or(false);
  const Pattern ranks = Pattern::read(json, "rank_pattern", where),
                alphas = Pattern::read(json, "alpha_pattern", where);
  const auto targets = read_targets(json, where);
  try {
    options.target_modules = "all-linear";
    validate(options);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", where, error.what()));
  }

  const SafetensorsFile file = SafetensorsFile::open(folder / kTensorsFile);
  const std::string tensors = file.path().string();
  std::map<std::string, Halves> found = find_modules(file);
  if (found.empty()) throw InputError(fmt::format("{}: no tensors, expected an adapter's", tensors));
  const std::vector<LinearShape> linears = detail::linear_shapes(config);
  for (const LinearShape& linear : linears) {
    const auto entry = found.find(linear.name);
    if (entry == found.end()) continue;
    const auto& [a, b] = entry->second;
    if (a.empty() || b.empty()) {
      throw InputError(fmt::format("{}: module \"{}\" has {} alone, expected lora_A.weight and lora_B.weight", tensors,
                                   linear.name, a.empty() ? "lora_B.weight" : "lora_A.weight"));
    }
    if (targets && std::none_of(targets->begin(), targets->end(),
                                [&](const std::string& target) { return detail::is_target(linear.name, target); })) {
      throw InputError(fmt::format("{}: an adapter of \"{}\", expected those of {}'s target_modules alone: {}", tensors,
                                   linear.name, kConfigFile, fmt::join(*targets, ", ")));
    }
    const double pattern_rank = ranks.find(linear.name, "rank_pattern", where).value_or(0.0);
    if (pattern_rank > kMostRank || pattern_rank != std::trunc(pattern_rank)) {
      throw InputError(fmt::format("{}: field \"rank_pattern\" gives module \"{}\" {}, expected an integer", where,
                                   linear.name, pattern_rank));
    }
    const std::int64_t rank = pattern_rank > 0.0 ? static_cast<std::int64_t>(pattern_rank) : options.r;
    const auto check_shape = [&](const std::string& name, const std::vector<std::int64_t>& expected) {
      if (file.info(name).shape != expected) {
        throw InputError(fmt::format("{}: tensor \"{}\" is [{}], expected [{}]", tensors, name,
                                     fmt::join(file.info(name).shape, ", "), fmt::join(expected, ", ")));
      }
    };
    check_shape(a, {rank, linear.inputs});
    check_shape(b, {linear.outputs, rank});
    const double alpha = alphas.find(linear.name, "alpha_pattern", where).value_or(options.lora_alpha);
    adapter.modules.push_back({.name = linear.name,
                               .a = read_matrix(file, a),
                               .b = read_matrix(file, b),
                               .alpha = alpha,
                               .scaling = detail::lora_scaling(alpha, rank, options.use_rslora)});
    found.erase(entry);
  }
  if (!found.empty()) {
    throw InputError(fmt::format("{}: an adapter of \"{}\", expected those of the model's linears alone", tensors,
                                 found.begin()->first));
  }
  options.target_modules = fmt::format("{}", fmt::join(covering_targets(adapter, linears), ","));
  return adapter;
}

void LoraAdapter::save(const fs::path& folder, const std::string& base_model) const {
  std::error_code error;
  if (detail::is_folder(folder) && !fs::is_empty(folder, error) && !detail::exists(folder / kConfigFile)) {
    throw InputError(
        fmt::format("{}: holds files but no {}, expected an empty folder, a new one or an adapter's, which is replaced "
                    "with everything in it",
                    folder.string(), kConfigFile));
  }
  OrderedJson ranks = OrderedJson::object(), alphas = OrderedJson::object();
  std::set<std::string> targets;
  if (options.target_modules == "all-linear") {
    for (const LoraModule& module : modules) targets.insert(detail::last_part(module.name));
  } else {
    for (const std::string& name : detail::split_names(options.target_modules)) targets.insert(name);
  }
  NamedTensors tensors;
  for (const LoraModule& module : modules) {
    if (module.a.size(0) != options.r) ranks[module.name] = module.a.size(0);
    if (module.alpha != options.lora_alpha) alphas[module.name] = number(module.alpha);
  }
  for (const auto& [name, tensor] : parameters()) tensors.emplace_back(std::string(kPrefix) + name, tensor.detach());
  const OrderedJson config{{"peft_type", "LORA"},
                           {"task_type", "CAUSAL_LM"},
                           {"base_model_name_or_path", base_model},
                           {"inference_mode", true},
                           {"r", options.r},
                           {"lora_alpha", number(options.lora_alpha)},
                           {"lora_dropout", options.lora_dropout},
                           {"target_modules", targets},
                           {"use_rslora", options.use_rslora},
                           {"rank_pattern", ranks},
                           {"alpha_pattern", alphas},
                           {"bias", "none"},
                           {"fan_in_fan_out", false},
                           {"init_lora_weights", true},
                           {"layers_to_transform", nullptr},
                           {"modules_to_save", nullptr},
                           {"use_dora", false}};
  write_folder_atomically(folder, [&](const fs::path& temporary) {
    write_file_atomically(temporary / kConfigFile, detail::dump_json_pretty(config));
    write_safetensors(temporary / kTensorsFile, tensors);
  });
}

}  // namespace sao
