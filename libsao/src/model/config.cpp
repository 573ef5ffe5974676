// SPDX-License-Identifier: Apache-2.0
#include "sao/model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace {

using Json = nlohmann::ordered_json;

// Reads fields of one config and collects everything that is wrong with it.
class Fields {
 public:
  Fields(const Json& json, std::string_view where) : json_(json), where_(where) {}

  bool has(const std::string& name) const { return json_.contains(name) && !json_.at(name).is_null(); }

  std::int64_t size(const std::string& name) {
    if (!has(name)) return missing(name, "a positive integer"), 0;
    return size_or(name, 0);
  }

  std::int64_t size_or(const std::string& name, std::int64_t fallback) {
    if (!has(name)) return fallback;
    const Json& value = json_.at(name);
    if (!value.is_number_integer() || value.get<std::int64_t>() <= 0 || value.get<std::int64_t>() > (1LL << 31)) {
      problem(name, value, "a positive integer");
      return fallback;
    }
    return value.get<std::int64_t>();
  }

  double number(const std::string& name) {
    if (!has(name)) return missing(name, "a number"), 0.0;
    return number_or(name, 0.0);
  }

  double number_or(const std::string& name, double fallback) {
    if (!has(name)) return fallback;
    const Json& value = json_.at(name);
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      problem(name, value, "a number");
      return fallback;
    }
    return value.get<double>();
  }

  bool flag_or(const std::string& name, bool fallback) {
    if (!has(name)) return fallback;
    if (!json_.at(name).is_boolean()) {
      problem(name, json_.at(name), "true or false");
      return fallback;
    }
    return json_.at(name).get<bool>();
  }

  std::string text_or(const std::string& name, const std::string& fallback) {
    if (!has(name)) return fallback;
    if (!json_.at(name).is_string()) {
      problem(name, json_.at(name), "a string");
      return fallback;
    }
    return json_.at(name).get<std::string>();
  }

  void problem(const std::string& name, const Json& found, const std::string& expected) {
    problems_.push_back(fmt::format("{} is {}, expected {}", name,
                                    found.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80),
                                    expected));
  }
  void missing(const std::string& name, const std::string& expected) {
    problems_.push_back(fmt::format("{} is missing, expected {}", name, expected));
  }

  void throw_if_any() const {
    if (!problems_.empty()) throw InputError(fmt::format("{}: {}", where_, fmt::join(problems_, "; ")));
  }

 private:
  const Json& json_;
  std::string where_;
  std::vector<std::string> problems_;
};

// transformers 4 writes rope_theta and rope_scaling, transformers 5 one object rope_parameters.
void read_rope(Fields& fields, const Json& json, std::string_view where, ModelConfig& config) {
  config.rope_theta = fields.number_or("rope_theta", 10000.0);
  const char* name = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!fields.has(name)) return;
  if (!json.at(name).is_object()) {
    fields.problem(name, json.at(name), "an object or null");
    return;
  }
  Fields rope(json.at(name), fmt::format("{}: {}", where, name));
  config.rope_theta = rope.number_or("rope_theta", config.rope_theta);
  RopeScaling& scaling = config.rope_scaling;
  scaling.rope_type = rope.text_or("rope_type", rope.text_or("type", "default"));
  if (scaling.rope_type == "linear") {
    scaling.factor = rope.number("factor");
  } else if (scaling.rope_type == "llama3") {
    scaling.factor = rope.number("factor");
    scaling.low_freq_factor = rope.number("low_freq_factor");
    scaling.high_freq_factor = rope.number("high_freq_factor");
    scaling.original_max_position_embeddings = rope.size("original_max_position_embeddings");
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      rope.problem("high_freq_factor", scaling.high_freq_factor, "a value above low_freq_factor");
    }
  } else if (scaling.rope_type != "default") {
    rope.problem("rope_type", scaling.rope_type, "\"default\", \"linear\" or \"llama3\"");
  }
  if (scaling.factor <= 0.0) rope.problem("factor", scaling.factor, "a positive number");
  rope.throw_if_any();
}

// Gemma-2 alternates: even layers see a sliding window, odd ones everything; layer_types says so in newer configs.
void read_windows(Fields& fields, const Json& json, ModelConfig& config) {
  const std::int64_t window = fields.size("sliding_window");
  config.layer_windows.assign(static_cast<std::size_t>(config.num_hidden_layers), 0);
  if (!fields.has("layer_types")) {
    for (std::size_t i = 0; i < config.layer_windows.size(); i += 2) config.layer_windows[i] = window;
    return;
  }
  const Json& types = json.at("layer_types");
  if (!types.is_array() || types.size() != config.layer_windows.size()) {
    fields.problem("layer_types", types, fmt::format("a list of {} names", config.num_hidden_layers));
    return;
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

ModelConfig ModelConfig::read(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  return parse(read_file(file, 16 << 20), file.string());
}

ModelConfig ModelConfig::parse(std::string_view json_text, std::string_view where) {
  Json json;
  try {
    json = Json::parse(json_text);
  } catch (const nlohmann::json::exception& error) {
    throw InputError(fmt::format("{}: not valid JSON ({})", where, error.what()));
  }
  if (!json.is_object()) throw InputError(fmt::format("{}: not an object, expected a model's config", where));

  Fields fields(json, where);
  ModelConfig config;
  config.model_type = fields.text_or("model_type", "");
  if (config.model_type != "gemma2" && config.model_type != "llama") {
    throw InputError(fmt::format("{}: model_type is \"{}\", expected one of: gemma2, llama", where, config.model_type));
  }
  const bool gemma = config.model_type == "gemma2";
  config.vocab_size = fields.size("vocab_size");
  config.hidden_size = fields.size("hidden_size");
  config.intermediate_size = fields.size("intermediate_size");
  config.num_hidden_layers = fields.size("num_hidden_layers");
  config.num_attention_heads = fields.size("num_attention_heads");
  config.num_key_value_heads = fields.size_or("num_key_value_heads", config.num_attention_heads);
  config.max_position_embeddings = fields.size("max_position_embeddings");
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = fields.flag_or("tie_word_embeddings", gemma);
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (fields.flag_or(name, false)) fields.problem(name, true, "false (biases are not supported)");
  }
  fields.throw_if_any();  // what follows divides by these

  config.head_dim =
      gemma ? fields.size("head_dim") : fields.size_or("head_dim", config.hidden_size / config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.problem("num_key_value_heads", config.num_key_value_heads,
                   fmt::format("a divisor of num_attention_heads = {}", config.num_attention_heads));
  }
  if (config.head_dim % 2 != 0) fields.problem("head_dim", config.head_dim, "an even number");
  read_rope(fields, json, where, config);

  if (gemma) {
    config.hidden_act = fields.text_or("hidden_activation", fields.text_or("hidden_act", "gelu_pytorch_tanh"));
    config.zero_centered_norm = true;
    config.post_norms = true;
    config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
    const double scalar = fields.number("query_pre_attn_scalar");
    if (scalar <= 0.0) fields.problem("query_pre_attn_scalar", scalar, "a positive number");
    config.attention_scale = 1.0 / std::sqrt(scalar);
    config.attn_logit_softcapping = fields.number_or("attn_logit_softcapping", 0.0);
    config.final_logit_softcapping = fields.number_or("final_logit_softcapping", 0.0);
    read_windows(fields, json, config);
  } else {
    config.hidden_act = fields.text_or("hidden_act", "silu");
    config.attention_scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
    config.layer_windows.assign(static_cast<std::size_t>(config.num_hidden_layers), 0);
  }
  if (config.hidden_act != "gelu_pytorch_tanh" && config.hidden_act != "silu") {
    fields.problem(gemma ? "hidden_activation" : "hidden_act", config.hidden_act, "\"gelu_pytorch_tanh\" or \"silu\"");
  }
  if (fields.has("eos_token_id")) {
    const Json& eos = json.at("eos_token_id");
    const Json list = eos.is_array() ? eos : Json::array({eos});
    for (const Json& id : list) {
      if (!id.is_number_integer()) {
        fields.problem("eos_token_id", eos, "an integer or a list of integers");
      } else {
        config.eos_token_ids.push_back(id.get<TokenId>());
      }
    }
  }
  fields.throw_if_any();
  return config;
}

std::string ModelConfig::to_json(std::string_view base_json, std::string_view torch_dtype) const {
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
