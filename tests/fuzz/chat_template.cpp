// SPDX-License-Identifier: Apache-2.0
// A chat template, parsed and rendered with a conversation.
#include "sao/jinja/template.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"

void sao::fuzz::chat_template(std::string_view input) {
  static const jinja::Value variables = jinja::Value::parse_json(R"({
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hello, 世界\n"},
                 {"role": "assistant", "content": "Hi"}, {"role": "user", "content": ""}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "tools": null, "number": -7, "share": 0.5,
    "nested": {"list": [1, [2, {"a": "b"}]], "none": null}})");
  accepted([&] {
    const jinja::Template text(input);
    text.render(variables, {.limits = {.steps = 100'000, .memory = 16 << 20},
                            .now = std::chrono::system_clock::time_point(std::chrono::seconds(1'700'000'000))});
  });
}
