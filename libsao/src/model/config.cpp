// SPDX-License-Identifier: Apache-2.0
#include "sao/model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "io/json.h"
#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace {

using detail::Json;
using detail::JsonForm;

constexpr std::int64_t kMaxSize = std::int64_t{1} << 31;
constexpr std::int64_t kMaxLayers = 1 << 16;

/// A field and what is wrong with it.
using Problems = std::vector<std::pair<std::string, std::string>>;

[[noreturn]] void throw_problems(std::string_view where, const Problems& problems) {
  std::vector<std::string> sentences;
  for (const auto& problem : problems) sentences.push_back(problem.first + " " + problem.second);
  throw InputError(fmt::format("{}: {}", where, fmt::join(sentences, "; ")));
}

Problems find_problems(const ModelConfig& c) {
  Problems problems;
  const auto need = [&](bool good, const char* field, const auto& found, const std::string& expected) {
    if (!good) problems.emplace_back(field, fmt::format("is {}, expected {}", found, expected));
  };
  const auto quoted = [](const std::string& text) { return '"' + text + '"'; };
  const auto positive = [](double x) { return std::isfinite(x) && x > 0.0; };
  const auto not_negative = [](double x) { return std::isfinite(x) && x >= 0.0; };
  need(c.model_type == "gemma2" || c.model_type == "llama", "model_type", quoted(c.model_type),
       "one of: gemma2, llama");
  struct Size {
    const char* field;
    std::int64_t value;
    std::int64_t most = kMaxSize;
  };
  for (const auto& [field, value, most] :
       std::initializer_list<Size>{{"vocab_size", c.vocab_size},
                                   {"hidden_size", c.hidden_size},
                                   {"intermediate_size", c.intermediate_size},
                                   {"num_hidden_layers", c.num_hidden_layers, kMaxLayers},
                                   {"num_attention_heads", c.num_attention_heads},
                                   {"num_key_value_heads", c.num_key_value_heads},
                                   {"head_dim", c.head_dim},
                                   {"max_position_embeddings", c.max_position_embeddings}}) {
    need(value >= 1 && value <= most, field, value, fmt::format("an integer from 1 to {}", most));
  }
  need(c.num_key_value_heads < 1 || c.num_attention_heads % c.num_key_value_heads == 0, "num_key_value_heads",
       c.num_key_value_heads, fmt::format("a divisor of num_attention_heads = {}", c.num_attention_heads));
  need(c.head_dim % 2 == 0, "head_dim", c.head_dim, "an even number");
  need(not_negative(c.rms_norm_eps), "rms_norm_eps", c.rms_norm_eps, "0 or more");
  need(positive(c.rope_theta), "rope_theta", c.rope_theta, "a positive number");
  const RopeScaling& rope = c.rope_scaling;
  need(rope.rope_type == "default" || rope.rope_type == "linear" || rope.rope_type == "llama3",
       "rope_scaling.rope_type", quoted(rope.rope_type), "\"default\", \"linear\" or \"llama3\"");
  need(positive(rope.factor), "rope_scaling.factor", rope.factor, "a positive number");
  if (rope.rope_type == "llama3") {
    need(positive(rope.low_freq_factor), "rope_scaling.low_freq_factor", rope.low_freq_factor, "a positive number");
    need(std::isfinite(rope.high_freq_factor) && rope.high_freq_factor > rope.low_freq_factor,
         "rope_scaling.high_freq_factor", rope.high_freq_factor, "a value above low_freq_factor");
    need(rope.original_max_position_embeddings >= 1, "rope_scaling.original_max_position_embeddings",
         rope.original_max_position_embeddings, "a positive integer");
  }
  need(c.hidden_act == "gelu_pytorch_tanh" || c.hidden_act == "silu",
       c.model_type == "gemma2" ? "hidden_activation" : "hidden_act", quoted(c.hidden_act),
       "\"gelu_pytorch_tanh\" or \"silu\"");
  need(positive(c.embedding_scale), "embedding_scale", c.embedding_scale, "a positive number");
  need(positive(c.attention_scale), "attention_scale", c.attention_scale, "a positive number");
  need(not_negative(c.attn_logit_softcapping), "attn_logit_softcapping", c.attn_logit_softcapping, "0 or more");
  need(not_negative(c.final_logit_softcapping), "final_logit_softcapping", c.final_logit_softcapping, "0 or more");
  need(
      static_cast<std::int64_t>(c.layer_windows.size()) == std::clamp<std::int64_t>(c.num_hidden_layers, 0, kMaxLayers),
      "layer_windows", fmt::format("a list of {}", c.layer_windows.size()),
      fmt::format("one for each of {} layers", c.num_hidden_layers));
  for (const std::int64_t window : c.layer_windows) need(window >= 0, "layer_windows", window, "0 or more");
  for (const TokenId id : c.eos_token_ids) {
    need(id >= 0 && (id < c.vocab_size || c.vocab_size < 1), "eos_token_id", id,
         fmt::format("a token id below {}", c.vocab_size));
  }
  return problems;
}

// Reads fields of one object and collects everything that is wrong with them.
class Fields {
 public:
  /// `path` stands before the names in messages.
  explicit Fields(const Json& json, std::string path = {}) : json_(json), path_(std::move(path)) {}

  bool has(const std::string& name) const { return json_.contains(name) && !json_.at(name).is_null(); }

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
    if (!has(name)) {
      problems.emplace_back(path_ + name, fmt::format("is missing, expected {}", JsonForm<T>::kExpected));
    }
    return get_or<T>(name, T{});
  }

  void problem(const std::string& name, const Json& found, std::string_view expected) {
    problems.emplace_back(path_ + name, fmt::format("is {}, expected {}", detail::describe_json(found), expected));
  }

  Problems problems;

 private:
  const Json& json_;
  std::string path_;
};

// transformers 4 writes rope_theta and rope_scaling, transformers 5 one object rope_parameters.
void read_rope(Fields& fields, const Json& json, ModelConfig& config) {
  config.rope_theta = fields.get_or<double>("rope_theta", 10000.0);
  const char* name = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!fields.has(name)) return;
  if (!json.at(name).is_object()) return fields.problem(name, json.at(name), "an object or null");
  Fields rope(json.at(name), "rope_scaling.");
  config.rope_theta = rope.get_or<double>("rope_theta", config.rope_theta);
  RopeScaling& scaling = config.rope_scaling;
  scaling.rope_type = rope.get_or<std::string>("rope_type", rope.get_or<std::string>("type", "default"));
  if (scaling.rope_type == "linear" || scaling.rope_type == "llama3") scaling.factor = rope.get<double>("factor");
  if (scaling.rope_type == "llama3") {
    scaling.low_freq_factor = rope.get<double>("low_freq_factor");
    scaling.high_freq_factor = rope.get<double>("high_freq_factor");
    scaling.original_max_position_embeddings = rope.get<std::int64_t>("original_max_position_embeddings");
  }
  fields.problems.insert(fields.problems.end(), rope.problems.begin(), rope.problems.end());
}

// Gemma-2 alternates: even layers see a sliding window, odd ones everything; layer_types says so in newer configs.
void read_windows(Fields& fields, const Json& json, ModelConfig& config) {
  std::int64_t window = fields.get<std::int64_t>("sliding_window");
  if (window < 0 || (window == 0 && fields.has("sliding_window"))) {
    fields.problem("sliding_window", std::exchange(window, 0), "a positive integer");
  }
  if (!fields.has("layer_types")) {
    for (std::size_t i = 0; i < config.layer_windows.size(); i += 2) config.layer_windows[i] = window;
    return;
  }
  const Json& types = json.at("layer_types");
  if (!types.is_array() || types.size() != config.layer_windows.size()) {
    return fields.problem("layer_types", types, fmt::format("a list of {} names", config.num_hidden_layers));
  }
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "sliding_attention") {
      config.layer_windows[i] = window;
    } else if (types[i] != "full_attention") {
      fields.problem(fmt::format("layer_types[{}]", i), types[i], "\"sliding_attention\" or \"full_attention\"");
    }
  }
}

}  // namespace

void validate(const ModelConfig& config, std::string_view where) {
  if (const Problems problems = find_problems(config); !problems.empty()) throw_problems(where, problems);
}

ModelConfig ModelConfig::read(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  return parse(read_file(file, 16 << 20), file.string());
}

ModelConfig ModelConfig::parse(std::string_view json_text, std::string_view where) {
  const Json json = detail::parse_json_object(json_text, where);
  Fields fields(json);
  ModelConfig config;
  config.model_type = fields.get_or<std::string>("model_type", "");
  if (config.model_type != "gemma2" && config.model_type != "llama") {  // what the fields mean depends on it
    throw InputError(fmt::format("{}: model_type is \"{}\", expected one of: gemma2, llama", where, config.model_type));
  }
  const bool gemma = config.model_type == "gemma2";
  config.vocab_size = fields.get<std::int64_t>("vocab_size");
  config.hidden_size = fields.get<std::int64_t>("hidden_size");
  config.intermediate_size = fields.get<std::int64_t>("intermediate_size");
  config.num_hidden_layers = fields.get<std::int64_t>("num_hidden_layers");
  config.num_attention_heads = fields.get<std::int64_t>("num_attention_heads");
  // Where a field is missing or impossible, what is derived from it is harmless: it is not complained about.
  const std::int64_t heads = std::max<std::int64_t>(config.num_attention_heads, 1);
  const std::int64_t width = config.hidden_size >= 1 ? config.hidden_size : 2 * heads;
  config.num_key_value_heads = fields.get_or<std::int64_t>("num_key_value_heads", heads);
  config.max_position_embeddings = fields.get<std::int64_t>("max_position_embeddings");
  config.rms_norm_eps = fields.get_or<double>("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = fields.get_or<bool>("tie_word_embeddings", gemma);
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (fields.get_or<bool>(name, false)) fields.problem(name, true, "false (biases are not supported)");
  }
  config.head_dim =
      gemma ? fields.get<std::int64_t>("head_dim") : fields.get_or<std::int64_t>("head_dim", width / heads);
  config.layer_windows.assign(
      static_cast<std::size_t>(std::clamp<std::int64_t>(config.num_hidden_layers, 0, kMaxLayers)), 0);
  read_rope(fields, json, config);

  if (gemma) {
    config.hidden_act =
        fields.get_or<std::string>("hidden_activation", fields.get_or<std::string>("hidden_act", "gelu_pytorch_tanh"));
    config.zero_centered_norm = true;
    config.post_norms = true;
    config.embedding_scale = std::sqrt(static_cast<double>(width));
    const double scalar = fields.get<double>("query_pre_attn_scalar");
    if (scalar > 0.0) config.attention_scale = 1.0 / std::sqrt(scalar);
    if (fields.has("query_pre_attn_scalar") && !(scalar > 0.0)) {
      fields.problem("query_pre_attn_scalar", scalar, "a positive number");
    }
    config.attn_logit_softcapping = fields.get_or<double>("attn_logit_softcapping", 0.0);
    config.final_logit_softcapping = fields.get_or<double>("final_logit_softcapping", 0.0);
    read_windows(fields, json, config);
  } else {
    config.hidden_act = fields.get_or<std::string>("hidden_act", "silu");
    if (config.head_dim > 0) config.attention_scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  }
  if (fields.has("eos_token_id") && !JsonForm<TokenIds>::read(json.at("eos_token_id"), config.eos_token_ids)) {
    TokenId id = 0;
    if (JsonForm<TokenId>::read(json.at("eos_token_id"), id)) {
      config.eos_token_ids = {id};
    } else {
      fields.problem("eos_token_id", json.at("eos_token_id"), "a token id or a list of them");
    }
  }
  Problems& problems = fields.problems;
  for (const auto& found : find_problems(config)) {
    const auto same_field = [&](const auto& problem) { return problem.first == found.first; };
    if (std::none_of(problems.begin(), problems.end(), same_field)) problems.push_back(found);
  }
  if (!problems.empty()) throw_problems(where, problems);
  return config;
}

std::string ModelConfig::to_json(std::string_view base_json, std::string_view torch_dtype) const {
  using Json = detail::OrderedJson;
  if (!base_json.empty()) detail::parse_json_object(base_json, "base_json");  // says what is wrong with it
  Json json = base_json.empty() ? Json::object() : Json::parse(base_json);
  if (base_json.empty()) {
    const bool gemma = model_type == "gemma2";
    json["architectures"] = {gemma ? "Gemma2ForCausalLM" : "LlamaForCausalLM"};
    json["model_type"] = model_type;
    json["vocab_size"] = vocab_size;
    json["hidden_size"] = hidden_size;
    json["intermediate_size"] = intermediate_size;
    json["num_hidden_layers"] = num_hidden_layers;
    json["num_attention_heads"] = num_attention_heads;
    json["num_key_value_heads"] = num_key_value_heads;
    json["head_dim"] = head_dim;
    json["max_position_embeddings"] = max_position_embeddings;
    json["rms_norm_eps"] = rms_norm_eps;
    json["rope_theta"] = rope_theta;
    if (rope_scaling.rope_type == "default") {
      json["rope_scaling"] = nullptr;
    } else {
      json["rope_scaling"] = {{"rope_type", rope_scaling.rope_type}, {"factor", rope_scaling.factor}};
      if (rope_scaling.rope_type == "llama3") {
        json["rope_scaling"]["low_freq_factor"] = rope_scaling.low_freq_factor;
        json["rope_scaling"]["high_freq_factor"] = rope_scaling.high_freq_factor;
        json["rope_scaling"]["original_max_position_embeddings"] = rope_scaling.original_max_position_embeddings;
      }
    }
    json["attention_bias"] = false;
    json["tie_word_embeddings"] = tie_word_embeddings;
    json[gemma ? "hidden_activation" : "hidden_act"] = hidden_act;
    if (gemma) {
      const double scalar = 1.0 / (attention_scale * attention_scale);
      const double whole = std::round(scalar);
      json["query_pre_attn_scalar"] = std::abs(scalar - whole) < 1e-6 ? Json(std::llround(whole)) : Json(scalar);
      const auto cap = [](double value) { return value > 0.0 ? Json(value) : Json(nullptr); };
      json["attn_logit_softcapping"] = cap(attn_logit_softcapping);
      json["final_logit_softcapping"] = cap(final_logit_softcapping);
      json["layer_types"] = Json::array();
      std::int64_t window = max_position_embeddings;
      for (const std::int64_t layer_window : layer_windows) {
        json["layer_types"].push_back(layer_window > 0 ? "sliding_attention" : "full_attention");
        if (layer_window > 0) window = layer_window;
      }
      json["sliding_window"] = window;
    }
    if (eos_token_ids.size() == 1) {
      json["eos_token_id"] = eos_token_ids[0];
    } else if (!eos_token_ids.empty()) {
      json["eos_token_id"] = eos_token_ids;
    }
  }
  json[json.contains("dtype") ? "dtype" : "torch_dtype"] = std::string(torch_dtype);
  return json.dump(2) + "\n";
}

std::int64_t ModelConfig::parameter_count() const {
  const std::int64_t attention = hidden_size * head_dim * (2 * num_attention_heads + 2 * num_key_value_heads);
  const std::int64_t mlp = 3 * hidden_size * intermediate_size;
  const std::int64_t norms = (post_norms ? 4 : 2) * hidden_size;
  const std::int64_t embeddings = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2);
  return embeddings + num_hidden_layers * (attention + mlp + norms) + hidden_size;
}

}  // namespace sao
