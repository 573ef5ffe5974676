// SPDX-License-Identifier: Apache-2.0
// A model's config.json.
#include "sao/model/config.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"

void sao::fuzz::config(std::string_view input) {
  ModelConfig config;
  if (!accepted([&] { config = ModelConfig::parse(input, "config.json"); })) return;
  validate(config);  // throws where parse let something through
  const ModelConfig again = ModelConfig::parse(config.to_json(input, "bfloat16"), "config.json again");
  expect(again.to_json({}, "float32") == config.to_json({}, "float32"), "a config written over its file is the same");
  ModelConfig::parse(config.to_json({}, "bfloat16"), "a new config.json");
}
