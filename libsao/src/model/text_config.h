// SPDX-License-Identifier: Apache-2.0
// Gemma 3 reads images too: its checkpoints hold a language model, which is gemma3_text, and a vision tower.
#pragma once

#include <initializer_list>
#include <utility>

#include "io/json.h"

namespace sao::detail {

/// The config of the language model alone, as a config.json of its own; other configs stay as they are.
template <class AnyJson>
AnyJson text_config(AnyJson json) {
  if (!json.contains("model_type") || json["model_type"] != "gemma3") return json;
  if (!json.contains("text_config") || !json["text_config"].is_object()) return json;
  AnyJson text = std::move(json["text_config"]);
  text["model_type"] = "gemma3_text";
  text["architectures"] = AnyJson::array({"Gemma3ForCausalLM"});
  // What is said of both is said once.
  for (const char* name : {"eos_token_id", "tie_word_embeddings", "quantization_config", "torch_dtype", "dtype"}) {
    if (json.contains(name) && !text.contains(name)) text[name] = json[name];
  }
  return text;
}

}  // namespace sao::detail
