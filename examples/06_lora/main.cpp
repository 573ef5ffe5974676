// SPDX-License-Identifier: Apache-2.0
// DPO that trains low-rank adapters alone; the adapters as PEFT reads them, and a model with them merged.
//   06_lora MODEL_FOLDER PAIRS.jsonl OUTPUT_FOLDER
#include <sao/sao.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc != 4) throw sao::InputError("usage: 06_lora MODEL_FOLDER PAIRS.jsonl OUTPUT_FOLDER");
  const std::filesystem::path folder = argv[1], output = argv[3];
  const auto text = sao::ChatTokenizer::load(folder);
  const auto pairs = sao::tokenize_pairs(sao::read_jsonl<sao::Preference>(argv[2]), text);

  const auto base = sao::CausalLM::load(folder);
  const auto policy = base.with_lora({.r = 16, .lora_alpha = 32}, sao::Seed{42});  // the same weights, and adapters
  const sao::TrainerOptions options{
      .loss = sao::DPO{.beta = 0.1}, .optimizer = {.learning_rate = 2e-4}, .epochs = 4, .batch_size = 1};
  sao::Trainer trainer(policy, pairs, options);  // its reference is the base, which takes no more memory
  while (trainer.step()) {
    const auto& m = trainer.metrics();
    std::printf("step %ld  loss %.4f\n", static_cast<long>(m.step), m.loss);
  }
  policy.lora()->save(output / "adapter", folder.string());  // adapter_config.json, adapter_model.safetensors
  policy.merged().save(output / "merged", folder);           // a Hugging Face folder; checked against the adapters
} catch (const sao::Error& error) {
  std::fprintf(stderr, "06_lora: %s\n", error.what());
  return 1;
}
