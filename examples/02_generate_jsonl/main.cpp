// SPDX-License-Identifier: Apache-2.0
// Many prompts, several samples each, written as they finish, one JSON object a line. A sample depends on its seed, not
// on the batch: run it with another max_batch and the same lines come out, perhaps in another order.
// usage: 02_generate_jsonl MODEL_FOLDER PROMPTS.txt SAMPLES
#include <sao/data/records.h>
#include <sao/generate/engine.h>
#include <sao/io/jsonl.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) try {
  if (argc != 4) throw sao::InputError("usage: 02_generate_jsonl MODEL_FOLDER PROMPTS.txt SAMPLES");
  const auto text = sao::ChatTokenizer::load(argv[1]);
  sao::Engine engine(sao::CausalLM::load(argv[1], {.purpose = sao::Purpose::kInference}), text, {.max_batch = 32});

  const sao::Seed seed{42};
  std::vector<sao::GenerationRequest> requests;
  sao::for_each_line(argv[2], [&](std::string_view line) {
    requests.push_back(
        {.prompt_ids = text.encode_prompt(line), .seed = seed.fork(requests.size()), .samples = std::atoi(argv[3])});
  });

  engine.generate(
      requests, {.temperature = 0.8, .top_p = 0.95, .max_new_tokens = 256},
      [&](std::size_t request, std::int64_t sample, const sao::Completion& completion) {
        const std::string prompt = std::to_string(request);
        std::puts(to_json_line(sao::Response{.id = prompt + "-" + std::to_string(sample),
                                             .prompt_id = prompt,
                                             .k = sample,
                                             .text = text.response_text(completion.ids),
                                             .ids = completion.ids,
                                             .finish_reason = std::string(to_string(completion.finish_reason)),
                                             .seed = requests[request].seed.value})
                      .c_str());
      });
  std::fprintf(stderr, "%ld tokens sampled\n", static_cast<long>(engine.stats().generated_tokens));
} catch (const sao::Error& error) {
  std::fprintf(stderr, "02_generate_jsonl: %s\n", error.what());
  return 1;
}
