// SPDX-License-Identifier: Apache-2.0
// One round of Self-Alignment Optimization, part by part.
// usage: 05_sao_round MODEL_FOLDER PERSONAS.jsonl OUTPUT_FOLDER
#include <sao/sao.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc != 4) throw sao::InputError("usage: 05_sao_round MODEL_FOLDER PERSONAS.jsonl OUTPUT_FOLDER");
  const std::filesystem::path folder = argv[1];
  const sao::Seed seed{42};
  const auto text = sao::ChatTokenizer::load(folder);
  const auto policy = sao::CausalLM::load(folder);

  // The policy writes prompts in the voice of personas, answers each twice and judges the answers itself.
  std::vector<sao::Preference> preferences;
  {
    sao::Engine engine(policy, text, {.max_batch = 256});
    const auto personas = sao::read_jsonl<sao::Persona>(argv[2]);
    const sao::SamplingOptions sampling{.temperature = 1.0, .max_new_tokens = 96};
    const auto prompts = sao::kept_prompts(sao::write_prompts(
        engine, personas, {.sampling = sampling, .seed = seed.fork("prompts")}, sao::find_prompt_templates(folder)));
    const auto responses = sao::answer_prompts(engine, prompts, {.sampling = sampling, .seed = seed.fork("answers")});
    const auto verdicts = sao::judge_pairs(engine, sao::judge_items(prompts, responses), {.seed = seed.fork("judge")},
                                           sao::find_judge_templates(folder));
    preferences = sao::build_pairs(prompts, responses, verdicts).pairs;
    std::printf("%zu prompts, %zu preference pairs\n", prompts.size(), preferences.size());
  }  // the engine's memory is free again

  // It is trained on its own preferences.
  sao::Trainer trainer(policy, sao::tokenize_pairs(preferences, text),
                       {.loss = sao::SimPO{.beta = 10.0, .gamma_beta_ratio = 0.3},
                        .optimizer = {.learning_rate = 3e-4},
                        .batch_size = 32,
                        .seed = seed.fork("train")});
  while (trainer.step()) {
    const auto& m = trainer.metrics();
    std::printf("step %ld  loss %.4f  accuracy %.3f\n", static_cast<long>(m.step), m.loss, m.reward_accuracy);
  }
  policy.save(argv[3], folder);  // a Hugging Face folder: the next round's model
} catch (const sao::Error& error) {
  std::fprintf(stderr, "05_sao_round: %s\n", error.what());
  return 1;
}
