// SPDX-License-Identifier: Apache-2.0
// A preference loss of your own: everything heavy (the packed forward pass, log-probs without logits, their gradient)
// is the library's; the loss is a few lines on [pairs] tensors. Here: DPO's logistic loss with a reward for short
// answers. usage: 03_custom_loss   (a tiny random model, so that it runs anywhere)
#include <ATen/ATen.h>
#include <sao/sao.h>

#include <cstdio>

// s = sums of log-probs, n = lengths, one per pair.
at::Tensor short_dpo(const sao::PairLogps& policy, double beta, double price_of_a_token) {
  const at::Tensor margin =
      beta * ((policy.chosen - policy.reference_chosen) - (policy.rejected - policy.reference_rejected));
  return -at::log_sigmoid(margin - price_of_a_token * (policy.chosen_lengths - policy.rejected_lengths));
}

int main() try {
  const auto config = sao::ModelConfig::parse(
      R"({"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 2, "max_position_embeddings": 64})",
      "tiny config");
  const auto policy = sao::CausalLM::random(config, sao::Seed{1});
  const std::vector<sao::TokenPair> pairs = {{.prompt = {1, 7, 9}, .chosen = {4, 5, 2}, .rejected = {8, 8, 8, 2}},
                                             {.prompt = {1, 3}, .chosen = {6, 2}, .rejected = {30, 31, 2}}};
  const auto reference = sao::pair_logps(policy.clone_frozen(), pairs);

  policy.set_requires_grad(true);
  sao::AdamW optimizer(policy.parameters(), {.learning_rate = 1e-3});
  for (int step = 0; step < 20; ++step) {
    auto logps = sao::pair_logps(policy, pairs);
    logps.reference_chosen = reference.chosen.detach();
    logps.reference_rejected = reference.rejected.detach();
    const at::Tensor loss = short_dpo(logps, 0.5, 0.05).mean();
    loss.backward();
    optimizer.accumulate();
    optimizer.update(optimizer.gradient_norm(), 1e-3);
    if (step % 5 == 4) std::printf("step %d  loss %.4f\n", step + 1, loss.item<double>());
  }
} catch (const sao::Error& error) {
  std::fprintf(stderr, "03_custom_loss: %s\n", error.what());
  return 1;
}
