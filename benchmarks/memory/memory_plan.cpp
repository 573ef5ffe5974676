// SPDX-License-Identifier: Apache-2.0
// memory_plan FOLDER [gemma2|llama] [LOSS] [MICRO_BATCH_TOKENS]: what plan_memory says beside what a run takes, stage
// by stage: resident memory at its peak, less what the program had before the run. Of a model of about 100 million
// random weights with the bundled tokenizer, whose texts are as long as the settings let them be. FOLDER is made and
// filled.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <sao/sao.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>

namespace {

constexpr double kMebibyte = 1 << 20;

sao::ModelConfig config(const std::string& family, std::int64_t vocab_size) {
  const bool gemma = family == "gemma2";
  sao::ModelConfig c{.model_type = family,
                     .vocab_size = vocab_size,
                     .hidden_size = 768,
                     .intermediate_size = 3072,
                     .num_hidden_layers = 12,
                     .num_attention_heads = 12,
                     .num_key_value_heads = 4,
                     .head_dim = 64,
                     .max_position_embeddings = 4096,
                     .tie_word_embeddings = gemma,
                     .hidden_act = gemma ? "gelu_pytorch_tanh" : "silu",
                     .zero_centered_norm = gemma,
                     .post_norms = gemma,
                     .embedding_scale = gemma ? std::sqrt(768.0) : 1.0,
                     .attention_scale = 0.125,
                     .attn_logit_softcapping = gemma ? 50.0 : 0.0,
                     .final_logit_softcapping = gemma ? 30.0 : 0.0};
  for (int i = 0; i < 12; ++i) c.layer_windows.push_back(gemma && i % 2 == 0 ? 1024 : 0);
  return c;
}

std::int64_t status_of(const std::string& name) {  // in bytes
  std::ifstream stream("/proc/self/status");
  for (std::string word; stream >> word;) {
    std::int64_t kib = 0;
    if (word == name && stream >> kib) return kib << 10;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  sao::keep_freed_memory();  // as the programs do
  if (argc < 2) throw sao::InputError("usage: memory_plan FOLDER [gemma2|llama] [LOSS] [MICRO_BATCH_TOKENS]");
  const std::filesystem::path folder = argv[1];
  const std::string family = argc > 2 ? argv[2] : "gemma2";
  const std::filesystem::path bundled = std::filesystem::path(SAO_SOURCE_DIR) / "examples" / "microworld" / "model";
  if (!std::filesystem::exists(folder / family / "config.json")) {
    const sao::ChatTokenizer text = sao::ChatTokenizer::load(bundled);
    const std::int64_t vocabulary = text.tokenizer().vocab_size();
    const sao::CausalLM model = sao::CausalLM::random(config(family, vocabulary), sao::Seed{1});
    // Tokens that end a prompt are likelier than others, or most would be cut and few answered.
    const at::NoGradGuard no_grad;
    for (const sao::TokenId id : text.stop_ids()) model.output_weight()[id].mul_(8.0);
    model.save(folder / family, bundled);
  }

  sao::RunSettings settings;
  settings.model = folder / family;
  settings.personas = std::filesystem::path(SAO_SOURCE_DIR) / "libsao" / "share" / "personas.jsonl";
  settings.prompts.count = 256;
  settings.prompts.sampling = {.temperature = 1.0, .max_new_tokens = 48};
  settings.prompts.filters = {
      .min_characters = 1, .min_letter_share = 0.0, .drop_duplicates = false, .drop_near_duplicates = false};
  settings.responses.sampling = {.temperature = 1.0, .max_new_tokens = 192, .ignore_eos = true};
  settings.judge.judge_truncated = settings.pairs.keep_truncated = settings.pairs.keep_inconsistent = true;
  settings.train.loss = sao::SimPO{};
  if (argc > 3 && std::string(argv[3]) == "dpo") settings.train.loss = sao::DPO{};
  settings.train.batch_size = 16;
  settings.train.micro_batch_tokens = argc > 4 ? std::stoll(argv[4]) : 4096;
  settings.train.max_steps = 2;
  settings.train.schedule.warmup_ratio = 0.0;
  settings.eval.count = 0;

  const sao::MemoryPlan plan = sao::plan_memory(settings);
  std::filesystem::remove_all(folder / "run");
  sao::Run run(folder / "run", settings);
  const std::int64_t before = status_of("VmRSS:");
  std::printf("| stage | planned MiB | measured MiB | planned / measured |\n|---|---|---|---|\n");
  bool more = true;
  while (more) {
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak from here on
    more = run.step();
    const std::int64_t measured = status_of("VmHWM:") - before;
    for (const sao::StageMemory& stage : plan.stages) {
      if (!more || run.stage() != "round 1: " + stage.name) continue;
      const std::int64_t planned = sao::total_bytes(stage.parts);
      std::printf("| %s %s | %.0f | %.0f | %.2f |\n", family.c_str(), stage.name.c_str(),
                  static_cast<double>(planned) / kMebibyte, static_cast<double>(measured) / kMebibyte,
                  static_cast<double>(planned) / static_cast<double>(measured));
    }
    std::fflush(stdout);
  }
} catch (const sao::Error& error) {
  std::fprintf(stderr, "memory_plan: %s\n", error.what());
  return 1;
}
