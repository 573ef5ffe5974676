// SPDX-License-Identifier: Apache-2.0
// The families of models as a table: what each is made of, and which fields of config.json say so. Reading, checking
// and writing a config, and the names of a checkpoint's tensors, follow it; docs/add-a-family.md walks through an
// entry.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sao::detail {

/// Which layers see a sliding window only.
enum class Windows {
  kNone,
  kEveryLayer,   ///< all, where sliding_window is a number
  kPattern,      ///< those that layer_types names; without it all but every window_pattern-th
  kUpperLayers,  ///< where use_sliding_window is true those that layer_types names; without it from max_window_layers
                 ///< on
};

/// What transformers' modeling_<family>.py computes.
struct Family {
  std::string_view model_type;    ///< of config.json
  std::string_view architecture;  ///< the class that transformers loads such a folder with

  // The block; members of ModelConfig by the same names.
  bool zero_centered_norm = false;
  bool post_norms = false;
  bool query_key_norm = false;
  bool fused_projections = false;
  bool query_key_value_bias = false;  ///< always, whatever attention_bias says
  bool scaled_embedding = false;      ///< embedding_scale is sqrt(hidden_size)

  Windows windows = Windows::kNone;
  int window_pattern = 0;  ///< for kPattern

  std::vector<std::string_view> rope_types = {"default", "linear", "llama3", "yarn"};
  double rope_theta = 10000.0;      ///< where config.json has none
  double sliding_rope_theta = 0.0;  ///< likewise; 0: all layers rotate alike
  std::string_view activation_field = "hidden_act";

  /// Optional fields that the family's code in transformers reads. A config that sets another one of optional_fields()
  /// asks for something that is not done and is refused.
  std::vector<std::string_view> reads = {};

  /// JSON: what transformers takes for fields that config.json leaves out. Fields that are not here must be there.
  std::string_view defaults = "{}";

  bool reads_field(std::string_view field) const;
};

/// A field that some families read, or none, and the values (JSON) with which it asks for nothing.
struct OptionalField {
  std::string_view name;
  std::string_view neutral;  ///< besides null
};

std::span<const Family> families();
std::span<const OptionalField> optional_fields();

/// Null where there is none of that name.
const Family* find_family(std::string_view model_type);
/// "gemma, gemma2, ...": for messages.
std::string family_names();

}  // namespace sao::detail
