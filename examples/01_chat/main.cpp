// SPDX-License-Identifier: Apache-2.0
// Ask a model one thing.
// usage: 01_chat MODEL_FOLDER "What color is a lemon?"
#include <sao/base/error.h>
#include <sao/generate/engine.h>
#include <sao/model/causal_lm.h>
#include <sao/text/stream.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc != 3) throw sao::InputError("usage: 01_chat MODEL_FOLDER TEXT");
  const auto model = sao::CausalLM::load(argv[1]);
  const auto text = sao::ChatTokenizer::load(argv[1]);
  sao::Engine engine(model, text);

  const sao::GenerationRequest request{.prompt_ids = text.encode_prompt(argv[2]), .seed = sao::Seed{1}};
  const auto completions = engine.generate_all({&request, 1}, {.temperature = 0.7, .max_new_tokens = 200});
  std::printf("%s\n", text.response_text(completions[0][0].ids).c_str());
} catch (const sao::Error& error) {
  std::fprintf(stderr, "01_chat: %s\n", error.what());
  return 1;
}
