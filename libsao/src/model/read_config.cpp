// SPDX-License-Identifier: Apache-2.0
// From config.json, as transformers 4 or 5 writes it, to a ModelConfig.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "io/json.h"
#include "model/config_problems.h"
#include "model/families.h"
#include "model/text_config.h"
#include "sao/base/error.h"

namespace sao {
namespace detail {
namespace {

// Reads fields of one object and collects everything that is wrong with them. A field that is null is not there.
class Fields {
 public:
  /// `path` stands before the names in messages.
  explicit Fields(const Json& json, std::string path = {}) : json_(json), path_(std::move(path)) {}

  bool has(const std::string& name) const { return json_.contains(name) && !json_.at(name).is_null(); }
  bool is_null(const std::string& name) const { return json_.contains(name) && json_.at(name).is_null(); }
  const Json& at(const std::string& name) const { return json_.at(name); }

  template <class T>
  T get_or(const std::string& name, T fallback) {
    if (!has(name)) return fallback;
    T value{};
    if (JsonForm<T>::read(json_.at(name), value)) return value;
    problem(name, json_.at(name), JsonForm<T>::kExpected);
    return fallback;
  }

  template <class T>
  T get(const std::string& name) {
    if (!has(name)) missing(name, JsonForm<T>::kExpected);
    return get_or<T>(name, T{});
  }

  void missing(const std::string& name, std::string_view expected) {
    problems.emplace_back(path_ + name, fmt::format("is missing, expected {}", expected));
  }
  void problem(const std::string& name, const Json& found, std::string_view expected) {
    problems.emplace_back(path_ + name, fmt::format("is {}, expected {}", describe_json(found), expected));
  }
  void take_problems(const Fields& other) {
    problems.insert(problems.end(), other.problems.begin(), other.problems.end());
  }

  Problems problems;

 private:
  const Json& json_;
  std::string path_;
};

// What a config asks for and its family does not do.
void refuse_unread(Fields& fields, const Family& family) {
  for (const auto& [name, neutral] : optional_fields()) {
    const std::string field(name);
    if (family.reads_field(name) || !fields.has(field) || fields.at(field) == Json::parse(neutral)) continue;
    fields.problem(field, fields.at(field), fmt::format("{}: libsao has none for {}", neutral, family.model_type));
  }
}

// A field that counts where the family reads it.
template <class T>
T read_optional(Fields& fields, const Family& family, const std::string& name, T otherwise) {
  return family.reads_field(name) ? fields.get_or<T>(name, otherwise) : otherwise;
}

// yarn: how much larger than 1 the scores become when the context grows by `factor`.
double yarn_attention_factor(Fields& rope, double factor) {
  const auto scale = [&](double strength) { return factor <= 1.0 ? 1.0 : 0.1 * strength * std::log(factor) + 1.0; };
  const double mscale = rope.get_or("mscale", 0.0), all_dim = rope.get_or("mscale_all_dim", 0.0);
  return mscale != 0.0 && all_dim != 0.0 ? scale(mscale) / scale(all_dim) : scale(1.0);
}

double longrope_attention_factor(double factor, std::int64_t original) {
  return factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(static_cast<double>(original)));
}

// `json`: the object rope_parameters or rope_scaling; `fields`: of the whole config.
void read_rope_object(Fields& fields, const Json& json, ModelConfig& config) {
  Fields rope(json, "rope_scaling.");
  for (const auto& [name, value] : json.items()) {
    if (value.is_object()) rope.problem(name, value, "a number, a name or a list: all layers rotate alike");
  }
  config.rope_theta = rope.get_or("rope_theta", config.rope_theta);
  config.partial_rotary_factor = rope.get_or("partial_rotary_factor", config.partial_rotary_factor);
  RopeScaling& s = config.rope_scaling;
  s.rope_type = rope.get_or<std::string>("rope_type", rope.get_or<std::string>("type", "default"));
  if (config.model_type == "phi3" && (s.rope_type == "su" || s.rope_type == "yarn")) s.rope_type = "longrope";
  if (s.rope_type == "llama3" || s.rope_type == "yarn" || s.rope_type == "longrope") {
    // A field of the config itself counts before one of the object.
    const std::string name = "original_max_position_embeddings";
    s.original_max_position_embeddings =
        fields.get_or(name, rope.get_or(name, std::max<std::int64_t>(config.max_position_embeddings, 1)));
  }
  const bool scaled = s.rope_type == "linear" || s.rope_type == "llama3" || s.rope_type == "yarn";
  if (scaled) s.factor = rope.get<double>("factor");
  if (s.rope_type == "llama3") {
    s.low_freq_factor = rope.get<double>("low_freq_factor");
    s.high_freq_factor = rope.get<double>("high_freq_factor");
  }
  if (s.rope_type == "yarn") {
    const auto unless_zero = [&](const char* name, double otherwise) {
      const double found = rope.get_or(name, 0.0);
      return found == 0.0 ? otherwise : found;
    };
    s.beta_fast = unless_zero("beta_fast", 32.0);
    s.beta_slow = unless_zero("beta_slow", 1.0);
    s.truncate = rope.get_or("truncate", true);
    if (!s.truncate && config.sliding_rope_theta > 0.0) {
      rope.problem("truncate", false, "true, which transformers takes where layers rotate in two ways");
    }
    s.attention_factor = rope.get_or("attention_factor", yarn_attention_factor(rope, s.factor));
  }
  if (s.rope_type == "longrope") {
    const double original = static_cast<double>(s.original_max_position_embeddings);
    s.factor = rope.get_or("factor", static_cast<double>(config.max_position_embeddings) / original);
    s.short_factor = rope.get<std::vector<double>>("short_factor");
    s.long_factor = rope.get<std::vector<double>>("long_factor");
    s.attention_factor =
        rope.get_or("attention_factor", longrope_attention_factor(s.factor, s.original_max_position_embeddings));
  }
  fields.take_problems(rope);
}

// The object `name`, or null; says so where it is something else.
const Json* object_at(Fields& fields, const std::string& name) {
  if (!fields.has(name)) return nullptr;
  if (fields.at(name).is_object()) return &fields.at(name);
  fields.problem(name, fields.at(name), "an object or null");
  return nullptr;
}

// rope_parameters with an object for each kind of layer: sets the base of those with a window, returns the other
// object.
Json read_rope_by_layer(Fields& fields, const Json& by_layer, ModelConfig& config) {
  Fields kinds(by_layer, "rope_parameters.");
  for (const auto& [kind, value] : by_layer.items()) {
    if (kind == "full_attention" || kind == "sliding_attention") continue;
    kinds.problem(kind, value, "in one of the objects full_attention and sliding_attention");
  }
  if (const Json* object = object_at(kinds, "sliding_attention")) {
    Fields sliding(*object, "rope_parameters.sliding_attention.");
    config.sliding_rope_theta = sliding.get_or("rope_theta", config.sliding_rope_theta);
    if (const auto type = sliding.get_or<std::string>("rope_type", "default"); type != "default") {
      sliding.problem("rope_type", type, "\"default\": layers with a window are not scaled");
    }
    kinds.take_problems(sliding);
  }
  const Json* full = object_at(kinds, "full_attention");
  fields.take_problems(kinds);
  return full == nullptr ? Json::object() : *full;
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 one object rope_parameters or one for each kind of
// layer. Where both are there, the older counts.
void read_rope(Fields& fields, const Family& family, ModelConfig& config) {
  config.rope_theta = fields.get_or("rope_theta", family.rope_theta);
  config.partial_rotary_factor = read_optional(fields, family, "partial_rotary_factor", 1.0);
  const bool by_layer = family.sliding_rope_theta > 0.0;
  if (by_layer) config.sliding_rope_theta = fields.get_or("rope_local_base_freq", family.sliding_rope_theta);
  Json rope = Json::object();
  if (const Json* found = object_at(fields, "rope_parameters")) {
    rope = by_layer ? read_rope_by_layer(fields, *found, config) : *found;
  }
  if (const Json* found = object_at(fields, "rope_scaling"); found != nullptr && !found->empty()) {
    if (by_layer) {
      rope.update(*found);
    } else {
      rope = *found;
    }
  }
  read_rope_object(fields, rope, config);
}

std::vector<std::int64_t> default_windows(Fields& fields, const Family& family, std::int64_t layers,
                                          std::int64_t window) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  if (family.windows == Windows::kEveryLayer) {
    std::ranges::fill(windows, window);
  } else if (family.windows == Windows::kPattern) {
    const auto pattern = fields.get_or<std::int64_t>("sliding_window_pattern", family.window_pattern);
    if (pattern < 1) fields.problem("sliding_window_pattern", pattern, "a positive integer");
    for (std::int64_t i = 0; i < layers && pattern >= 1; ++i) {
      if ((i + 1) % pattern != 0) windows[static_cast<std::size_t>(i)] = window;
    }
  } else if (family.windows == Windows::kUpperLayers) {
    const auto first = fields.get<std::int64_t>("max_window_layers");
    for (std::int64_t i = std::max<std::int64_t>(first, 0); i < layers; ++i) {
      windows[static_cast<std::size_t>(i)] = window;
    }
  }
  return windows;
}

void read_windows(Fields& fields, const Family& family, ModelConfig& config) {
  const std::int64_t layers = std::clamp<std::int64_t>(config.num_hidden_layers, 0, kMaxLayers);
  config.layer_windows.assign(static_cast<std::size_t>(layers), 0);
  if (family.windows == Windows::kNone) return;
  const bool switched_off = family.windows == Windows::kUpperLayers && !fields.get_or("use_sliding_window", false);
  std::int64_t window = 0;  // 0: there is none
  if (!switched_off) {
    window = family.windows == Windows::kPattern ? fields.get<std::int64_t>("sliding_window")
                                                 : fields.get_or<std::int64_t>("sliding_window", 0);
    if (fields.has("sliding_window") && window < 1) {
      fields.problem("sliding_window", std::exchange(window, 0), "a positive integer");
    }
  }
  if (!family.reads_field("layer_types") || !fields.has("layer_types")) {
    config.layer_windows = default_windows(fields, family, layers, window);
    return;
  }
  const Json& types = fields.at("layer_types");
  if (!types.is_array() || types.size() != config.layer_windows.size()) {
    return fields.problem("layer_types", types, fmt::format("a list of {} names", config.num_hidden_layers));
  }
  for (std::size_t i = 0; i < types.size(); ++i) {
    const std::string name = fmt::format("layer_types[{}]", i);
    if (types[i] == "full_attention") continue;
    if (types[i] != "sliding_attention") {
      fields.problem(name, types[i], "\"sliding_attention\" or \"full_attention\"");
    } else if (switched_off) {
      fields.problem(name, types[i], "\"full_attention\", as use_sliding_window is false");
    }
    config.layer_windows[i] = window;
  }
}

void read_sizes(Fields& fields, ModelConfig& config) {
  config.vocab_size = fields.get<std::int64_t>("vocab_size");
  config.hidden_size = fields.get<std::int64_t>("hidden_size");
  config.intermediate_size = fields.get<std::int64_t>("intermediate_size");
  config.num_hidden_layers = fields.get<std::int64_t>("num_hidden_layers");
  config.num_attention_heads = fields.get<std::int64_t>("num_attention_heads");
  config.max_position_embeddings = fields.get<std::int64_t>("max_position_embeddings");
  config.rms_norm_eps = fields.get_or("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = fields.get_or("tie_word_embeddings", false);
  // Where a field is missing or impossible, what is derived from it is harmless: it is not complained about.
  const std::int64_t heads = std::max<std::int64_t>(config.num_attention_heads, 1);
  const std::int64_t width = config.hidden_size >= 1 ? config.hidden_size : 2 * heads;
  // null where it follows from the others
  config.num_key_value_heads =
      fields.is_null("num_key_value_heads") ? heads : fields.get<std::int64_t>("num_key_value_heads");
  config.head_dim = fields.is_null("head_dim") ? width / heads : fields.get<std::int64_t>("head_dim");
}

void read_block(Fields& fields, const Family& family, ModelConfig& config) {
  const std::string activation(family.activation_field);
  config.hidden_act = fields.get<std::string>(activation);
  if (activation == "hidden_act" && fields.get_or("hidden_activation", config.hidden_act) != config.hidden_act) {
    // Of Gemma 1: transformers 4 computes by this field, 5 never.
    fields.problem("hidden_activation", fields.at("hidden_activation"),
                   fmt::format("\"{}\", as hidden_act says", config.hidden_act));
  }
  config.zero_centered_norm = family.zero_centered_norm;
  config.post_norms = family.post_norms;
  config.query_key_norm = family.query_key_norm;
  config.fused_projections = family.fused_projections;
  const bool bias = read_optional(fields, family, "attention_bias", false);
  config.query_key_value_bias = family.query_key_value_bias || bias;
  config.attention_output_bias = bias;
  config.mlp_bias = read_optional(fields, family, "mlp_bias", false);
  const double width = static_cast<double>(std::max<std::int64_t>(config.hidden_size, 1));
  config.embedding_scale = family.scaled_embedding ? std::sqrt(width) : 1.0;
  double scalar = static_cast<double>(config.head_dim);
  if (family.reads_field("query_pre_attn_scalar")) {
    scalar = fields.get<double>("query_pre_attn_scalar");
    if (fields.has("query_pre_attn_scalar") && !(scalar > 0.0)) {
      fields.problem("query_pre_attn_scalar", scalar, "a positive number");
    }
  }
  if (scalar > 0.0) config.attention_scale = 1.0 / std::sqrt(scalar);
  config.attn_logit_softcapping = read_optional(fields, family, "attn_logit_softcapping", 0.0);
  config.final_logit_softcapping = read_optional(fields, family, "final_logit_softcapping", 0.0);
}

void read_end_tokens(Fields& fields, ModelConfig& config) {
  const char* name = "eos_token_id";
  if (!fields.has(name) || JsonForm<TokenIds>::read(fields.at(name), config.eos_token_ids)) return;
  TokenId id = 0;
  if (JsonForm<TokenId>::read(fields.at(name), id)) {
    config.eos_token_ids = {id};
  } else {
    fields.problem(name, fields.at(name), "a token id or a list of them");
  }
}

}  // namespace
}  // namespace detail

ModelConfig ModelConfig::parse(std::string_view json_text, std::string_view where) {
  using namespace detail;
  const Json whole = parse_json_object_once(json_text, where), given = text_config(whole);
  ModelConfig config;
  config.model_type = Fields(given).get_or<std::string>("model_type", "");
  const Family* family = find_family(config.model_type);
  if (family == nullptr) {  // what the fields mean depends on it
    throw InputError(
        fmt::format("{}: model_type is \"{}\", expected one of: {}", where, config.model_type, family_names()));
  }
  Json json = Json::parse(family->defaults);
  json.update(given);
  Fields fields(json);
  refuse_unread(fields, *family);
  read_sizes(fields, config);
  read_block(fields, *family, config);
  read_rope(fields, *family, config);
  read_windows(fields, *family, config);
  read_end_tokens(fields, config);
  if (whole.contains("text_config") && config.final_logit_softcapping > 0.0) {
    fields.problem("text_config.final_logit_softcapping", config.final_logit_softcapping,
                   "null: the class for text and images does not apply it");
  }

  Problems& problems = fields.problems;
  for (const auto& found : find_problems(config)) {
    const auto same_field = [&](const auto& problem) { return problem.first == found.first; };
    if (std::none_of(problems.begin(), problems.end(), same_field)) problems.push_back(found);
  }
  if (!problems.empty()) throw_problems(where, problems);
  return config;
}

}  // namespace sao
