// SPDX-License-Identifier: Apache-2.0
// What creating, reading and writing adapters have in common.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sao/model/config.h"

namespace sao::detail {

/// A matrix [outputs, inputs] of a model that may have an adapter.
struct LinearShape {
  std::string name;
  std::int64_t inputs, outputs;
};

/// All of them, in the order of the layers.
std::vector<LinearShape> linear_shapes(const ModelConfig& config);

/// "q_proj" of "model.layers.0.self_attn.q_proj".
std::string last_part(const std::string& name);

/// Names with commas between.
std::vector<std::string> split_names(std::string_view text);

/// PEFT's rule: `target` is the whole name, or its end after a dot.
bool is_target(std::string_view name, std::string_view target);

/// Factor of B A.
double lora_scaling(double alpha, std::int64_t rank, bool use_rslora);

/// Why `target` cannot have an adapter; empty where it may be a linear of the layers.
std::string why_no_adapter(std::string_view target);

}  // namespace sao::detail
