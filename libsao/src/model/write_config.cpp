// SPDX-License-Identifier: Apache-2.0
// From a ModelConfig to config.json, in the form that transformers 4 and 5 both read.
#include <algorithm>
#include <cmath>

#include "io/json.h"
#include "model/families.h"
#include "model/text_config.h"
#include "sao/base/error.h"
#include "sao/model/config.h"

namespace sao {
namespace detail {
namespace {

OrderedJson or_null(double value) { return value > 0.0 ? OrderedJson(value) : OrderedJson(nullptr); }

void write_rope(const ModelConfig& c, const Family& family, OrderedJson& json) {
  json["rope_theta"] = c.rope_theta;
  if (family.sliding_rope_theta > 0.0) json["rope_local_base_freq"] = c.sliding_rope_theta;
  if (family.reads_field("partial_rotary_factor")) json["partial_rotary_factor"] = c.partial_rotary_factor;
  const RopeScaling& s = c.rope_scaling;
  OrderedJson rope = {{"rope_type", s.rope_type}, {"factor", s.factor}};
  if (s.rope_type == "default") {
    rope = nullptr;
  } else if (s.rope_type == "llama3") {
    rope["low_freq_factor"] = s.low_freq_factor;
    rope["high_freq_factor"] = s.high_freq_factor;
    rope["original_max_position_embeddings"] = s.original_max_position_embeddings;
  } else if (s.rope_type == "yarn") {
    rope["original_max_position_embeddings"] = s.original_max_position_embeddings;
    rope["attention_factor"] = s.attention_factor;
    rope["beta_fast"] = s.beta_fast;
    rope["beta_slow"] = s.beta_slow;
    rope["truncate"] = s.truncate;
  } else if (s.rope_type == "longrope") {
    json["original_max_position_embeddings"] = s.original_max_position_embeddings;
    rope["attention_factor"] = s.attention_factor;
    rope["short_factor"] = s.short_factor;
    rope["long_factor"] = s.long_factor;
  }
  json["rope_scaling"] = std::move(rope);
}

void write_windows(const ModelConfig& c, const Family& family, OrderedJson& json) {
  if (family.windows == Windows::kNone) return;
  const std::int64_t window = c.layer_windows.empty() ? 0 : *std::ranges::max_element(c.layer_windows);
  json["sliding_window"] = window > 0 ? OrderedJson(window) : OrderedJson(nullptr);
  if (family.windows == Windows::kEveryLayer) return;
  if (family.windows == Windows::kPattern && window == 0) json["sliding_window"] = c.max_position_embeddings;
  if (family.windows == Windows::kUpperLayers) {
    const auto first = std::ranges::find_if(c.layer_windows, [](std::int64_t w) { return w > 0; });
    json["use_sliding_window"] = window > 0;
    json["max_window_layers"] = first - c.layer_windows.begin();
  }
  json["layer_types"] = OrderedJson::array();
  for (const std::int64_t layer : c.layer_windows) {
    json["layer_types"].push_back(layer > 0 ? "sliding_attention" : "full_attention");
  }
}

OrderedJson write_config(const ModelConfig& c, const Family& family) {
  OrderedJson json;
  json["architectures"] = {family.architecture};
  json["model_type"] = c.model_type;
  json["vocab_size"] = c.vocab_size;
  json["hidden_size"] = c.hidden_size;
  json["intermediate_size"] = c.intermediate_size;
  json["num_hidden_layers"] = c.num_hidden_layers;
  json["num_attention_heads"] = c.num_attention_heads;
  json["num_key_value_heads"] = c.num_key_value_heads;
  json["head_dim"] = c.head_dim;
  json["max_position_embeddings"] = c.max_position_embeddings;
  json["rms_norm_eps"] = c.rms_norm_eps;
  write_rope(c, family, json);
  if (family.reads_field("attention_bias")) json["attention_bias"] = c.attention_output_bias;
  if (family.reads_field("mlp_bias")) json["mlp_bias"] = c.mlp_bias;
  json["tie_word_embeddings"] = c.tie_word_embeddings;
  json[std::string(family.activation_field)] = c.hidden_act;
  if (family.reads_field("query_pre_attn_scalar")) {
    const double scalar = 1.0 / (c.attention_scale * c.attention_scale), whole = std::round(scalar);
    json["query_pre_attn_scalar"] =
        std::abs(scalar - whole) < 1e-6 ? OrderedJson(std::llround(whole)) : OrderedJson(scalar);
  }
  if (family.reads_field("attn_logit_softcapping")) json["attn_logit_softcapping"] = or_null(c.attn_logit_softcapping);
  if (family.reads_field("final_logit_softcapping"))
    json["final_logit_softcapping"] = or_null(c.final_logit_softcapping);
  write_windows(c, family, json);
  json["pad_token_id"] = nullptr;  // nothing is padded, and transformers' default may lie outside the vocabulary
  if (c.eos_token_ids.size() == 1) {
    json["eos_token_id"] = c.eos_token_ids[0];
  } else if (!c.eos_token_ids.empty()) {
    json["eos_token_id"] = c.eos_token_ids;
  }
  return json;
}

}  // namespace
}  // namespace detail

std::string ModelConfig::to_json(std::string_view base_json, std::string_view torch_dtype) const {
  using namespace detail;
  OrderedJson json;
  if (base_json.empty()) {
    validate(*this);
    json = write_config(*this, *find_family(model_type));
  } else {
    parse_json_object(base_json, "base_json");  // says what is wrong with it
    json = text_config(OrderedJson::parse(base_json));
  }
  json[json.contains("dtype") ? "dtype" : "torch_dtype"] = std::string(torch_dtype);
  return json.dump(2) + "\n";
}

}  // namespace sao
