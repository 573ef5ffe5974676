// SPDX-License-Identifier: Apache-2.0
#include "demo.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "sao/generate/engine.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"
#include "sao/judge/health.h"
#include "sao/loop/round.h"
#include "sao/synth/diversity.h"
#include "world.h"

namespace microworld {
namespace {

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

template <class... Args>
void say(fmt::format_string<Args...> form, Args&&... args) {
  std::fputs(fmt::format(form, std::forward<Args>(args)...).c_str(), stdout);
  std::fflush(stdout);
}

// One line that is written over, on a terminal only.
sao::ProgressSink terminal_progress() {
  if (isatty(STDERR_FILENO) == 0) return {};
  return [](std::string_view what, std::size_t done, std::size_t total) {
    std::fprintf(stderr, "\r\033[K%.*s: %zu of %zu", static_cast<int>(what.size()), what.data(), done, total);
    if (done >= total) std::fputs("\r\033[K", stderr);
  };
}

void write_personas(const std::filesystem::path& file, sao::Seed seed, std::int64_t count) {
  std::vector<sao::Persona> personas;
  for (std::int64_t i = 0; i < count; ++i) {
    personas.push_back({.text = compose_persona(seed.value, static_cast<std::uint64_t>(i), Split::kHeldOut).text});
  }
  sao::write_file_atomically(file, sao::to_jsonl(personas));
}

sao::RunSettings run_settings(const std::filesystem::path& model, const std::filesystem::path& personas,
                              const RoundSettings& round, const DemoOptions& options) {
  const auto sampling = [&](double temperature) {
    return sao::SamplingOptions{.temperature = temperature, .max_new_tokens = round.max_new_tokens};
  };
  return {.model = model.string(),
          .personas = personas.string(),
          .rounds = options.rounds,
          .seed = sao::Seed{static_cast<std::uint64_t>(options.seed)},
          .prompts = {.count = round.prompts, .sampling = sampling(round.prompt_temperature)},
          .responses = {.sampling = sampling(round.answer_temperature)},
          .pairs = {.min_margin = round.min_margin, .soft_labels = true},
          .train = {.loss = sao::SimPO{.beta = round.beta, .gamma_beta_ratio = round.gamma_beta_ratio},
                    .optimizer = {.learning_rate = round.learning_rate},
                    .epochs = round.epochs,
                    .batch_size = round.batch_size,
                    .checkpoint = {.every_steps = 10}},
          .eval = {.count = 0},  // the oracle measures here; a run of one's own is judged by the base model
          .engine = {.max_batch = round.max_batch}};
}

void describe_round(const std::filesystem::path& folder, std::int64_t number) {
  const auto prompts = sao::read_jsonl<sao::Prompt>(folder / "prompts.jsonl");
  const auto responses = sao::read_jsonl<sao::Response>(folder / "responses.jsonl");
  const auto verdicts = sao::read_jsonl<sao::Verdict>(folder / "verdicts.jsonl");
  const auto pairs = sao::read_jsonl<sao::Preference>(folder / "pairs.jsonl");
  say("\nRound {}\n", number);
  say("  {} prompts as personas, kept {}:", prompts.size(), sao::kept_prompts(prompts).size());
  for (const auto& [outcome, count] : sao::count_outcomes(prompts)) say(" {} {}", outcome, count);
  say("\n  for example:\n");
  for (std::size_t i = 0; i < std::min<std::size_t>(3, prompts.size()); ++i) {
    say("    {}\n      -> {}\n", prompts[i].persona, prompts[i].text);
  }
  const sao::JudgeHealth health = sao::judge_health(verdicts, responses);
  say("  {} verdicts by the model itself, both orders: they agree on {:.0f} %, position bias {:+.3f}\n",
      verdicts.size(), 100.0 * health.agreement, health.position_bias);
  say("  {} preference pairs\n", pairs.size());
}

void show_transcripts(const std::vector<std::string>& requests, const Answers& before, const Answers& after,
                      std::int64_t count) {
  say("\nBefore and after, at temperature 0.7, on the first {} held-out requests (not picked)\n", count);
  for (std::size_t i = 0; i < std::min(static_cast<std::size_t>(count), requests.size()); ++i) {
    say("\n  {}\n    before: {}\n    after:  {}\n", requests[i], before.texts[i], after.texts[i]);
  }
}

void closing_table(const Answers& before, const Answers& after, const Answers& before_greedy,
                   const Answers& after_greedy, const Health& health_before, const Health& health_after) {
  const Comparison sampled = compare(before, after), greedy = compare(before_greedy, after_greedy);
  const auto rate = [](const sao::WinRate& w) {
    return fmt::format("{:.1f} +- {:.1f} %", 100.0 * w.win_rate, 100.0 * w.standard_error);
  };
  say("\nHow much better? Both models answer {} requests that no training document held; rules score every answer\n"
      "from 0 to 10 (the oracle: examples/microworld/oracle.cpp, unknown to the pipeline), the higher score wins,\n"
      "equal scores are half a win. Answers sampled at temperature 0.7.\n\n",
      before.scores.size());
  say("  win rate of the tuned model             {}\n", rate(sampled.win));
  say("    with length controlled                {:.1f} % ({:.1f} to {:.1f})\n",
      100.0 * sampled.length_controlled.win_rate, 100.0 * sampled.length_controlled.low,
      100.0 * sampled.length_controlled.high);
  say("    among answers of equal length         {} ({} requests)\n", rate(sampled.equal_length),
      sampled.equal_length.n);
  say("    greedy answers                        {}\n", rate(greedy.win));
  say("\n  {:<36} {:>8} {:>8}\n", "", "before", "after");
  const auto row = [](const char* name, double a, double b, const char* unit) {
    say("  {:<36} {:>8.1f} {:>8.1f} {}\n", name, a, b, unit);
  };
  row("mean score (of 10)", before.mean_score(), after.mean_score(), "");
  row("words an answer", before.mean_words(), after.mean_words(), "");
  row("answers without any flaw", 100.0 * before.clean_share(), 100.0 * after.clean_share(), "%");
  row("answers with a flaw of content", 100.0 * before.share(kContentFlaws), 100.0 * after.share(kContentFlaws), "%");
  for (int f = 0; f < kFlawCount; ++f) {
    const std::string name = "  " + std::string(kFlaws[static_cast<std::size_t>(f)].name);
    row(name.c_str(), 100.0 * before.share(Flaws{1} << f), 100.0 * after.share(Flaws{1} << f), "%");
  }
  row("judge accuracy, fresh labelled pairs", 100.0 * health_before.judge_accuracy, 100.0 * health_after.judge_accuracy,
      "%");
  const auto fine_row = [](const char* name, double a, double b) {
    say("  {:<36} {:>8.3f} {:>8.3f} nats a token\n", name, a, b);
  };
  fine_row("loss on held-out requests", health_before.request_loss, health_after.request_loss);
  fine_row("loss on clean held-out answers", health_before.clean_answer_loss, health_after.clean_answer_loss);
}

}  // namespace

void demo(const std::filesystem::path& model_folder, const std::filesystem::path& run_folder,
          const RoundSettings& round, const DemoOptions& options) {
  const Clock clock;
  const std::filesystem::path personas = run_folder.string() + "-personas.jsonl";
  if (!run_folder.parent_path().empty()) std::filesystem::create_directories(run_folder.parent_path());
  write_personas(personas, sao::Seed{static_cast<std::uint64_t>(options.seed)}.fork("personas"),
                 round.prompts * options.rounds);

  const sao::CausalLM base = sao::CausalLM::load(model_folder);
  const sao::ChatTokenizer text = sao::ChatTokenizer::load(model_folder);
  say("Self-Alignment Optimization on the bundled model: {} ({:.2f} million parameters)\n", model_folder.string(),
      static_cast<double>(base.config().parameter_count()) / 1e6);
  say("The model plays personas and writes prompts, answers each twice, judges the answers itself in both orders,\n"
      "and is trained on its own preferences (SimPO). Run folder: {}\n\n",
      run_folder.string());

  sao::Run run(
      run_folder, run_settings(model_folder, personas, round, options), {.resume = true},
      [](sao::LogLevel, std::string_view message) {
        std::fprintf(stderr, "%.*s\n", static_cast<int>(message.size()), message.data());
      },
      terminal_progress());
  double last = clock.seconds();
  while (run.step()) {
    say("  {:<28} {:6.1f} s\n", run.stage(), clock.seconds() - last);
    last = clock.seconds();
  }
  const double round_seconds = clock.seconds();
  for (std::int64_t r = 1; r <= options.rounds; ++r) describe_round(run_folder / fmt::format("round-{}", r), r);

  const sao::CausalLM tuned = sao::CausalLM::load(run_folder / fmt::format("round-{}", options.rounds) / "model");
  sao::Engine before_engine(base, text, {.max_batch = 256}), after_engine(tuned, text, {.max_batch = 256});
  const std::vector<std::string> requests =
      held_out_requests(kRequestsSeed, static_cast<std::size_t>(options.requests));
  const sao::Seed seed = sao::Seed{static_cast<std::uint64_t>(options.seed)}.fork("evaluation");
  const Answers before = answer_requests(before_engine, requests, 0.7, seed.fork("before"));
  const Answers after = answer_requests(after_engine, requests, 0.7, seed.fork("after"));
  const Answers before_greedy = answer_requests(before_engine, requests, 0.0, seed);
  const Answers after_greedy = answer_requests(after_engine, requests, 0.0, seed);
  show_transcripts(requests, before, after, options.transcripts);
  closing_table(before, after, before_greedy, after_greedy, check_health(before_engine, kHealthSeed),
                check_health(after_engine, kHealthSeed));
  say("\nThe {} took {:.0f} s, the measurement {:.0f} s. The tuned model: {}\n",
      options.rounds == 1 ? "round" : "rounds", round_seconds, clock.seconds() - round_seconds,
      (run_folder / fmt::format("round-{}", options.rounds) / "model").string());
}

}  // namespace microworld
