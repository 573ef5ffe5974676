// SPDX-License-Identifier: Apache-2.0
// Ask a model one thing; the answer appears as it is written.
// usage: 01_chat MODEL_FOLDER "What color is a lemon?"
#include <sao/base/error.h>
#include <sao/generate/engine.h>
#include <sao/model/causal_lm.h>
#include <sao/text/stream.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc != 3) throw sao::InputError("usage: 01_chat MODEL_FOLDER TEXT");
  const auto text = sao::ChatTokenizer::load(argv[1]);
  sao::Engine engine(sao::CausalLM::load(argv[1], {.purpose = sao::Purpose::kInference}), text);

  const auto show = [](const std::string& piece) {
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
  };
  sao::StreamDecoder stream(sao::Tokenizer::load(argv[1]));  // tokens to text, never half a character
  engine.set_on_token([&](std::size_t, std::int64_t, sao::TokenId id) { show(stream.push(id)); });

  const sao::GenerationRequest request{.prompt_ids = text.encode_prompt(argv[2]), .seed = sao::Seed{1}};
  engine.generate_all({&request, 1}, {.temperature = 0.7, .max_new_tokens = 200});
  show(stream.finish() + "\n");
} catch (const sao::Error& error) {
  std::fprintf(stderr, "01_chat: %s\n", error.what());
  return 1;
}
