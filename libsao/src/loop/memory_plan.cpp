// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/memory_plan.h"

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "generate/memory.h"
#include "model/dtype.h"
#include "sao/base/error.h"
#include "sao/generate/engine_memory.h"
#include "sao/io/jsonl.h"
#include "sao/judge/templates.h"
#include "sao/ops/cuda.h"
#include "sao/synth/templates.h"
#include "sao/text/placeholders.h"
#include "sao/train/training_memory.h"

namespace sao {
namespace {

std::int64_t length(const TokenIds& ids) { return static_cast<std::int64_t>(ids.size()); }

// Bytes that are free on the device now, 0 where there is none.
std::int64_t free_on(at::Device device) {
  if (device.is_cuda()) {
    try {
      ops::enable_cuda(device.index());
    } catch (const Error&) {
      return 0;
    }
  }
  return detail::free_memory(device);
}

class Planner {
 public:
  explicit Planner(const RunSettings& settings)
      : settings_(settings),
        device_(parse_device(settings.device)),
        dtype_(detail::scalar_type(parse_dtype(settings.dtype))),
        base_(ModelConfig::read(settings.model)),
        text_(ChatTokenizer::load(settings.model)),
        context_(base_.context_length()) {
    plan_.available = free_on(device_);
  }

  MemoryPlan plan() {
    const std::int64_t turn = length(text_.encode_prompt("x"));
    const std::int64_t prompt = std::min(turn + settings_.prompts.sampling.max_new_tokens, context_);
    const auto personas = read_personas();
    const std::int64_t attempts =
        settings_.prompts.count > 0
            ? settings_.prompts.count
            : std::max<std::int64_t>(1, static_cast<std::int64_t>(personas.size()) / settings_.rounds);
    const std::int64_t asking = longest_request(personas);
    const bool from_file = !settings_.eval.prompts.empty();
    const bool evaluates = from_file || settings_.eval.count > 0;
    // Prompts of a file are taken to be many, and as long as those that the model writes may be.
    constexpr std::int64_t kMany = 1000;
    const std::int64_t evaluated = from_file ? kMany : settings_.eval.count;
    const SamplingOptions& compared = settings_.eval.compare.sampling;
    if (evaluates) {
      if (!from_file)
        engine("evaluation: prompts", base_, {evaluated, 1, asking, settings_.prompts.sampling.max_new_tokens});
      engine("evaluation: answers of the base", base_, {evaluated, 1, prompt, compared.max_new_tokens});
    }
    engine("prompts", base_, {attempts, 1, asking, settings_.prompts.sampling.max_new_tokens});
    engine("responses", base_,
           {attempts, settings_.responses.samples, prompt, settings_.responses.sampling.max_new_tokens});
    const std::int64_t samples = settings_.responses.samples;
    judge("verdicts", settings_.judge_model, settings_.judge, settings_.responses.sampling,
          attempts * samples * (samples - 1) / 2);
    training(prompt);
    if (evaluates) {
      engine("evaluation: answers", base_, {evaluated, 1, prompt, compared.max_new_tokens});
      judge("evaluation: verdicts", settings_.eval.judge, settings_.eval.compare.judge, compared, evaluated);
    }
    return std::move(plan_);
  }

 private:
  std::vector<Persona> read_personas() const {
    return settings_.personas.empty() ? std::vector<Persona>{} : read_jsonl<Persona>(settings_.personas);
  }

  // Tokens of the longest turn that asks for a prompt. Texts of many characters are tokenized, not all of them.
  std::int64_t longest_request(std::vector<Persona> personas) const {
    const PromptTemplates templates = settings_.templates.empty() ? find_prompt_templates(settings_.model)
                                                                  : load_prompt_templates(settings_.templates);
    if (personas.empty()) return length(text_.encode_prompt(templates.unguided));
    constexpr std::ptrdiff_t kTokenized = 256;
    const auto some = personas.begin() + std::min<std::ptrdiff_t>(kTokenized, std::ssize(personas));
    std::ranges::partial_sort(personas, some, std::greater<>(),
                              [](const Persona& persona) { return persona.text.size(); });
    std::int64_t most = 1;
    for (auto persona = personas.begin(); persona != some; ++persona) {
      const std::array<PlaceholderValue, 1> values = {{{"persona", persona->text}}};
      most = std::max(most, length(text_.encode_prompt(fill_placeholders(templates.persona, values))));
    }
    return std::min(most, context_);
  }

  void engine(const std::string& stage, const ModelConfig& config, EngineWork work) {
    work.prompt_tokens = std::min(work.prompt_tokens, config.context_length() - (work.samples > 0 ? 1 : 0));
    work.new_tokens = std::min(work.new_tokens, config.context_length() - work.prompt_tokens);
    const std::int64_t weights = unpacked_bytes(config, dtype_, device_, settings_.engine.int8_weights);
    const std::int64_t left =
        plan_.available > 0 ? std::max<std::int64_t>(0, plan_.available - weights) : std::int64_t{1} << 60;
    const EngineMemory memory = engine_memory(config, dtype_, device_, settings_.engine, work, left);
    StageMemory& planned =
        plan_.stages.emplace_back(StageMemory{stage, {{"weights", weights}}, work.samples > 0 ? memory.sequences : 0});
    planned.parts.insert(planned.parts.end(), memory.parts.begin(), memory.parts.end());
    // Steps have matrices of many sizes: the C library keeps pieces of old ones that fit no new one.
    const auto step = std::ranges::find(memory.parts, "step", &MemoryPart::name);
    if (device_.is_cpu()) planned.parts.push_back({"pieces between", step->bytes});
  }

  // `folder`: the judge's; empty: the model itself.
  void judge(const std::string& stage, const std::string& folder, const JudgeOptions& options,
             const SamplingOptions& answers, std::int64_t pairs) {
    const std::string where = folder.empty() ? settings_.model : folder;
    const ModelConfig config = folder.empty() ? base_ : ModelConfig::read(folder);
    if (options.mode == "random") {
      const bool int8 = settings_.engine.int8_weights;
      plan_.stages.push_back({stage,
                              {{"weights", unpacked_bytes(config, dtype_, device_, int8)},
                               {"packed weights", packed_bytes(config, dtype_, device_, int8)}},
                              0});
      return;
    }
    const JudgeTemplates templates =
        settings_.templates.empty() ? find_judge_templates(settings_.model) : load_judge_templates(settings_.templates);
    const ChatTokenizer text = ChatTokenizer::load(where);
    const std::int64_t frame = length(text.encode_prompt(render_judge_prompt(templates, "x", "x", "x")));
    const EngineWork work{
        .requests = std::min(pairs, options.items_per_call) * (options.both_orders ? 2 : 1),
        .samples = options.mode == "text" ? 1 : 0,
        .prompt_tokens = frame + settings_.prompts.sampling.max_new_tokens + 2 * answers.max_new_tokens,
        .new_tokens = options.mode == "text" ? options.sampling.max_new_tokens : 1};
    engine(stage, config, work);
  }

  void training(std::int64_t prompt) {
    const std::int64_t most =
        settings_.train.max_length > 0 ? std::min(settings_.train.max_length, context_) : context_;
    const std::int64_t response =
        std::max<std::int64_t>(1, std::min(settings_.responses.sampling.max_new_tokens, most - prompt));
    const bool given = needs_reference(settings_.train.loss) && settings_.reference == "base" && settings_.rounds > 1;
    StageMemory& stage =
        plan_.stages.emplace_back(StageMemory{"training", {{"weights", weight_bytes(base_, dtype_)}}, 0});
    const MemoryParts parts =
        training_memory(base_, dtype_, device_, settings_.train,
                        {.prompt_tokens = std::min(prompt, most - 1), .response_tokens = response}, given);
    stage.parts.insert(stage.parts.end(), parts.begin(), parts.end());
  }

  const RunSettings& settings_;
  at::Device device_;
  at::ScalarType dtype_;
  ModelConfig base_;
  ChatTokenizer text_;
  std::int64_t context_;
  MemoryPlan plan_;
};

}  // namespace

MemoryPlan plan_memory(const RunSettings& settings) {
  validate(settings);
  return Planner(settings).plan();
}

}  // namespace sao
