// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/round.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "base/utf8.h"
#include "io/json.h"
#include "loop/evaluation.h"
#include "loop/manifest.h"
#include "sao/base/error.h"
#include "sao/base/memory.h"
#include "sao/io/jsonl.h"
#include "sao/judge/health.h"
#include "sao/loop/report.h"
#include "sao/loop/training.h"
#include "sao/model/causal_lm.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

using detail::OrderedJson;

/// A line of an evaluation file: {"prompt": s}.
struct PromptText {
  std::string text = {};
};

void from_json_line(std::string_view line, PromptText& record) {
  const detail::Json object = detail::parse_json_object(line, "");
  record.text = detail::get_field<std::string>(object, "prompt", "");
  if (detail::strip(record.text).empty()) {
    detail::throw_field_error("", "prompt", object["prompt"], "a text that is not blank");
  }
}

/// "kept 912, duplicate 61, too_short 3"
std::string counts_to_text(const std::map<std::string, std::int64_t>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, count);
  return text.empty() ? "none" : text;
}

/// A file's record in place `index` must be the one that the run would write there.
void check_id(const fs::path& file, std::size_t index, const std::string& found, const std::string& expected) {
  if (found == expected) return;
  throw InputError(fmt::format("{}: record {} is \"{}\", expected \"{}\"; the file is not of this run", file.string(),
                               index + 1, found, expected));
}

const RunSettings& validated(const RunSettings& settings) {
  validate(settings);
  return settings;
}

}  // namespace

struct Run::Impl {
  struct Stage {
    std::string name;
    std::function<void()> work;
  };
  struct Loaded {
    fs::path folder;
    CausalLM model;
    ChatTokenizer text;
  };

  RunSettings settings;
  std::optional<RunFolder> folder;  // opened when the inputs are known to be good
  LogSink log;
  ProgressSink progress;
  PromptTemplates prompt_templates;
  JudgeTemplates judge_templates;
  std::vector<Persona> personas;  // those of the evaluation, then those of the rounds
  std::size_t evaluation_personas = 0;
  std::size_t attempts = 0;  // prompts a round
  std::vector<Stage> stages;
  std::size_t next = 0;
  std::string stage;
  std::optional<Loaded> loaded;  // at most one model between stages

  Impl(const fs::path& path, const RunSettings& run_settings, const RunFolderOptions& options, LogSink log_sink,
       ProgressSink progress_sink)
      : settings(validated(run_settings)), log(std::move(log_sink)), progress(std::move(progress_sink)) {
    RunFolder::check(path, options);  // before large files are read
    const fs::path templates = settings.templates;
    prompt_templates = templates.empty() ? find_prompt_templates(settings.model) : load_prompt_templates(templates);
    judge_templates = templates.empty() ? find_judge_templates(settings.model) : load_judge_templates(templates);
    if (settings.judge.mode == "probability") check_verdicts(settings.judge_model);
    if (evaluates() && settings.eval.compare.judge.mode == "probability") check_verdicts(settings.eval.judge);
    const std::string manifest = detail::manifest_json(settings);
    draw_all_personas();
    folder.emplace(path, options);
    folder->fix_manifest(manifest);
    write_personas();
    plan();
  }

  void say(LogLevel level, const std::string& message) const {
    if (log) log(level, stage.empty() ? message : stage + ": " + message);
  }

  void tell(std::size_t done, std::size_t total) const {
    if (progress) progress(stage, done, total);
  }

  bool evaluates() const { return settings.eval.count > 0 || !settings.eval.prompts.empty(); }
  bool evaluation_from_file() const { return !settings.eval.prompts.empty(); }

  /// The verdicts must be told apart by the tokens of the judge, whose folder is `judge` (empty: the base).
  void check_verdicts(const std::string& judge) const {
    verdict_tokens(ChatTokenizer::load(judge.empty() ? settings.model : judge), judge_templates);
  }

  // The evaluation's personas come first, so that more rounds would not change them.
  void draw_all_personas() {
    const auto rounds = static_cast<std::size_t>(settings.rounds);
    attempts = static_cast<std::size_t>(settings.prompts.count);
    if (settings.personas.empty()) return;
    const std::vector<Persona> all = read_jsonl<Persona>(settings.personas);
    if (all.empty()) throw InputError(fmt::format("{}: no personas, expected at least one", settings.personas));
    evaluation_personas = evaluation_from_file() ? 0 : static_cast<std::size_t>(settings.eval.count);
    if (attempts == 0) {
      attempts = all.size() > evaluation_personas ? (all.size() - evaluation_personas) / rounds : 0;
      if (attempts == 0) {
        throw InputError(
            fmt::format("{}: {} personas for {} rounds after {} for the evaluation, expected more; or give "
                        "prompts.count",
                        settings.personas, all.size(), rounds, evaluation_personas));
      }
    }
    const std::size_t needed = evaluation_personas + rounds * attempts;
    if (needed > all.size()) {
      say(LogLevel::kWarning, fmt::format("{}: {} personas for {} prompts: some are used more than once",
                                          settings.personas, all.size(), needed));
    }
    personas = draw_personas(all, needed, detail::persona_seed(settings.seed));
  }

  void write_personas() const {
    if (personas.empty() || fs::exists(folder->path() / "personas.jsonl")) return;
    write_file_atomically(folder->path() / "personas.jsonl", to_jsonl(personas));
  }

  void plan() {
    if (evaluates()) {
      stages.push_back({"evaluation: prompts", [this] { evaluation_prompts(); }});
      stages.push_back({"evaluation: answers of the base", [this] {
                          answer_evaluation(settings.model, evaluation_folder() / "answers.jsonl", 0,
                                            evaluation_folder());
                        }});
    }
    for (std::int64_t round = 1; round <= settings.rounds; ++round) {
      const auto add = [&](const char* name, void (Impl::*work)(std::int64_t)) {
        stages.push_back({fmt::format("round {}: {}", round, name), [this, work, round] { (this->*work)(round); }});
      };
      add("prompts", &Impl::write_prompts);
      add("responses", &Impl::write_responses);
      add("verdicts", &Impl::write_verdicts);
      add("pairs", &Impl::write_pairs);
      add("training", &Impl::train);
      if (evaluates()) add("evaluation", &Impl::evaluate);
    }
    stages.push_back({"report", [this] { write_report(folder->path()); }});
  }

  bool step() {
    if (next == stages.size()) return false;
    stage = stages[next].name;
    stages[next].work();
    release_freed_memory();  // what one stage's matrices leave is of no use to the next
    ++next;
    return true;
  }

  /// Where round `round` starts; the model of round 0 is the base.
  fs::path start_of(std::int64_t round) const { return model_of(round - 1); }
  fs::path model_of(std::int64_t round) const {
    return round == 0 ? fs::path(settings.model) : folder->round(round) / "model";
  }

  Loaded& load(const fs::path& model, Purpose purpose) {
    if (!loaded || loaded->folder != model || (purpose == Purpose::kAll && loaded->model.inference_only())) {
      loaded.reset();  // before the next one takes memory
      loaded = Loaded{model, load_model(model, purpose), ChatTokenizer::load(model)};
    }
    return *loaded;
  }

  CausalLM load_model(const fs::path& model, Purpose purpose) const {
    return CausalLM::load(
        model, {.device = parse_device(settings.device), .dtype = parse_dtype(settings.dtype), .purpose = purpose});
  }

  /// One line of timing.jsonl, the only file that the clock gets into.
  void write_timing(const fs::path& where, const OrderedJson& line) const {
    AppendFile(where / "timing.jsonl").append(detail::dump_json_line(line));
  }

  /// Runs `work` on an engine and notes how long it took.
  template <class Work>
  void with_engine(const fs::path& model, const fs::path& where, Work&& work) {
    const Loaded& policy = load(model, purpose_of(settings.engine));
    Engine engine(policy.model, policy.text, settings.engine);
    const auto start = std::chrono::steady_clock::now();
    const std::size_t items = work(engine);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const EngineStats& stats = engine.stats();
    if (stats.fitting > 0) {
      say(LogLevel::kInfo, fmt::format("the KV cache had room for {} sequences at one time, of engine.max_batch {}",
                                       stats.fitting, settings.engine.max_batch));
    }
    write_timing(where, {{"stage", stage},
                         {"items", items},
                         {"seconds", seconds},
                         {"prompt_tokens", stats.prompt_tokens},
                         {"generated_tokens", stats.generated_tokens},
                         {"fitting", stats.fitting},
                         {"engine", detail::options_to_json(settings.engine)}});
  }

  // Prompts

  /// Attempts `first` to `first + count - 1` into `file`, each with its outcome. What repeats a text of `held_out`, or
  /// nearly, is dropped.
  void attempt_prompts(const fs::path& file, const fs::path& model, std::span<const Persona> voices, std::size_t first,
                       std::size_t count, Seed seed, const fs::path& where, std::span<const Prompt> held_out) {
    RecordFile<Prompt> prompts(file);
    PromptFilter filter(settings.prompts.filters);
    for (const Prompt& prompt : held_out) filter.decide(prompt.text);
    const auto decide = [&](const Prompt& prompt) {
      const bool cut = prompt.outcome == "truncated" || prompt.outcome == "no_room";
      return cut ? prompt.outcome : filter.decide(prompt.text);
    };
    for (std::size_t i = 0; i < prompts.records().size(); ++i) {
      check_id(file, i, prompts.records()[i].id, i < count ? prompt_id(first + i) : "nothing");
      decide(prompts.records()[i]);  // the filter remembers what was kept
    }
    const std::size_t done = prompts.records().size();
    if (done < count) {
      PromptOptions options = settings.prompts;
      options.seed = seed;
      with_engine(model, where, [&](Engine& engine) {
        sample_prompts(engine, voices, first + done, count - done, options, prompt_templates,
                       [&](const Prompt& sampled) {
                         Prompt prompt;
                         from_json_line(to_json_line(sampled), prompt);  // as it will be read
                         prompt.outcome = decide(prompt);
                         prompts.append(prompt);
                         tell(prompts.records().size(), count);
                       });
        return count - done;
      });
      prompts.sync();
    }
    say(LogLevel::kInfo, counts_to_text(count_outcomes(prompts.records())));
  }

  void write_prompts(std::int64_t round) {
    const fs::path where = folder->round(round);
    const std::span<const Persona> voices =
        std::span<const Persona>(personas).subspan(std::min(evaluation_personas, personas.size()));
    const std::size_t first = static_cast<std::size_t>(round - 1) * attempts;
    attempt_prompts(where / "prompts.jsonl", start_of(round), voices, first, attempts,
                    detail::round_seed(settings.seed, round, "prompts"), where,
                    evaluates() ? kept_evaluation_prompts() : std::vector<Prompt>{});
  }

  std::vector<Prompt> prompts_of(std::int64_t round) const {
    const fs::path file = folder->round(round) / "prompts.jsonl";
    std::vector<Prompt> kept = kept_prompts(read_jsonl<Prompt>(file));
    if (kept.empty()) {
      throw InputError(
          fmt::format("{}: no prompt was kept, expected at least one; look at their outcomes", file.string()));
    }
    return kept;
  }

  // Responses

  void answer(const fs::path& file, const fs::path& model, std::span<const Prompt> prompts,
              const ResponseOptions& options, const fs::path& where) {
    RecordFile<Response> responses(file);
    const auto samples = static_cast<std::size_t>(options.samples);
    const std::size_t count = prompts.size() * samples;
    const std::size_t done = responses.records().size();
    for (std::size_t i = 0; i < done; ++i) {
      check_id(file, i, responses.records()[i].id,
               i < count ? fmt::format("{}-{}", prompts[i / samples].id, i % samples) : "nothing");
    }
    if (done == count) return;
    // A prompt of which some samples are there is answered again, and what is there is skipped.
    std::size_t skip = done % samples;
    with_engine(model, where, [&](Engine& engine) {
      answer_prompts(engine, prompts.subspan(done / samples), options, [&](std::span<const Response> of_one_prompt) {
        for (const Response& response : of_one_prompt.subspan(std::exchange(skip, 0))) responses.append(response);
        tell(responses.records().size(), count);
      });
      return count - done;
    });
    responses.sync();
  }

  void write_responses(std::int64_t round) {
    const fs::path where = folder->round(round);
    ResponseOptions options = settings.responses;
    options.seed = detail::round_seed(settings.seed, round, "responses");
    options.weights_version = round - 1;
    answer(where / "responses.jsonl", start_of(round), prompts_of(round), options, where);
  }

  // Verdicts and pairs

  void write_verdicts(std::int64_t round) {
    const fs::path where = folder->round(round);
    const fs::path file = where / "verdicts.jsonl";
    const std::vector<Prompt> prompts = prompts_of(round);
    const std::vector<Response> responses = read_jsonl<Response>(where / "responses.jsonl");
    const std::vector<JudgeItem> items = judge_items(prompts, responses);
    RecordFile<Verdict> verdicts(file);
    const std::size_t done = verdicts.records().size();
    for (std::size_t i = 0; i < done; ++i) {
      check_id(file, i, verdicts.records()[i].id, i < items.size() ? items[i].id : "nothing");
    }
    if (done < items.size()) {
      JudgeOptions options = settings.judge;
      options.seed = detail::round_seed(settings.seed, round, "judge");
      const fs::path judge = settings.judge_model.empty() ? start_of(round) : fs::path(settings.judge_model);
      with_engine(judge, where, [&](Engine& engine) {
        judge_pairs(engine, std::span<const JudgeItem>(items).subspan(done), options, judge_templates,
                    [&](const Verdict& verdict) {
                      verdicts.append(verdict);
                      tell(verdicts.records().size(), items.size());
                    });
        return items.size() - done;
      });
      verdicts.sync();
    }
    const JudgeHealth health = judge_health(verdicts.records(), responses);
    say(LogLevel::kInfo, fmt::format("{}; agreement of the two orders {:.3f}, position bias {:+.3f}",
                                     counts_to_text(health.outcomes), health.agreement, health.position_bias));
  }

  void write_pairs(std::int64_t round) {
    const fs::path where = folder->round(round);
    const fs::path file = where / "pairs.jsonl";
    if (fs::exists(file)) return;  // written last
    const PreferencePairs built = build_pairs(prompts_of(round), read_jsonl<Response>(where / "responses.jsonl"),
                                              read_jsonl<Verdict>(where / "verdicts.jsonl"), settings.pairs);
    write_outcomes(where, "prompts", built.outcomes);
    if (built.pairs.empty()) {
      throw InputError(fmt::format("{}: the verdicts give no preference pair ({}), expected at least one",
                                   where.string(), counts_to_text(built.outcomes)));
    }
    write_file_atomically(file, to_jsonl(built.pairs));
    say(LogLevel::kInfo, counts_to_text(built.outcomes));
  }

  /// Puts counts into outcomes.json, beside those of the stages before.
  static void write_outcomes(const fs::path& where, const char* what,
                             const std::map<std::string, std::int64_t>& counts) {
    const fs::path file = where / "outcomes.json";
    detail::Json all = detail::Json::object();  // sorted, so that another order of writing gives the same bytes
    if (fs::exists(file)) all = detail::parse_json_object(read_file(file), file.string());
    all[what] = counts;
    write_file_atomically(file, detail::dump_json_pretty(OrderedJson(all)));
  }

  // Training

  void train(std::int64_t round) {
    const fs::path where = folder->round(round);
    const fs::path start = start_of(round);
    if (!fs::exists(where / "model")) {
      const std::vector<Preference> rows = read_jsonl<Preference>(where / "pairs.jsonl");
      const Loaded policy = load(start, Purpose::kAll);
      loaded.reset();  // its weights change from here on
      TrainerOptions options = settings.train;
      options.seed = detail::round_seed(settings.seed, round, "train");
      std::optional<CausalLM> reference;
      if (needs_reference(options.loss) && settings.reference == "base" && round > 1)
        reference = load_model(settings.model, Purpose::kAll);
      {
        Trainer trainer(policy.model, tokenize_pairs(rows, policy.text), options, std::move(reference));
        trainer.set_progress(progress);
        std::map<std::string, std::int64_t> counts = trainer.dropped();
        counts["trained"] = static_cast<std::int64_t>(trainer.pairs().size());
        write_outcomes(where, "pairs", counts);
        if (!trainer.dropped().empty()) {
          say(LogLevel::kWarning, fmt::format("{} pairs are trained on, others not: {}", trainer.pairs().size(),
                                              counts_to_text(trainer.dropped())));
        }
        train_to_end(
            trainer, where / "checkpoints", where / "metrics.jsonl", settings.train.checkpoint,
            [&](const Trainer& stepped) {
              write_timing(
                  where, {{"stage", stage}, {"step", stepped.steps_done()}, {"tokens/s", stepped.tokens_per_second()}});
              tell(static_cast<std::size_t>(stepped.steps_done()), static_cast<std::size_t>(stepped.total_steps()));
            });
        const TrainMetrics& last = trainer.metrics();
        if (last.step > 0) {
          say(LogLevel::kInfo, fmt::format("{} steps on {} pairs; last: loss {:.4f}, reward accuracy {:.3f}", last.step,
                                           trainer.pairs().size(), last.loss, last.reward_accuracy));
        }
      }
      policy.model.save(where / "model", start);
    }
    // The templates that the run was made with belong to its models.
    const fs::path templates = where / "model" / "sao_templates.json";
    if (!settings.templates.empty()) {
      const std::string bytes = read_file(settings.templates);
      if (!fs::exists(templates) || read_file(templates) != bytes) write_file_atomically(templates, bytes);
    }
  }

  // Evaluation

  fs::path evaluation_folder() const {
    const fs::path where = folder->path() / "eval";
    std::error_code error;
    fs::create_directories(where, error);
    if (error) throw ResourceError(fmt::format("cannot make {}: {}", where.string(), error.message()));
    return where;
  }

  void evaluation_prompts() {
    const fs::path file = evaluation_folder() / "prompts.jsonl";
    if (!evaluation_from_file()) {
      const std::span<const Persona> voices = std::span<const Persona>(personas).subspan(0, evaluation_personas);
      attempt_prompts(file, settings.model, voices, 0, static_cast<std::size_t>(settings.eval.count),
                      detail::evaluation_seed(settings.seed).fork("prompts"), evaluation_folder(), {});
      return;
    }
    if (fs::exists(file)) return;
    std::vector<Prompt> prompts;
    for (const PromptText& line : read_jsonl<PromptText>(settings.eval.prompts)) {
      prompts.push_back({.id = prompt_id(prompts.size()), .text = line.text, .outcome = "kept"});
    }
    write_file_atomically(file, to_jsonl(prompts));
  }

  /// Without ids: each model puts the text into its own chat format.
  std::vector<Prompt> kept_evaluation_prompts() const {
    const fs::path file = evaluation_folder() / "prompts.jsonl";
    std::vector<Prompt> kept = kept_prompts(read_jsonl<Prompt>(file));
    if (kept.empty()) {
      throw InputError(fmt::format("{}: no prompt was kept, expected at least one; give eval.prompts, or eval.count 0",
                                   file.string()));
    }
    for (Prompt& prompt : kept) prompt.ids.clear();
    return kept;
  }

  void answer_evaluation(const fs::path& model, const fs::path& file, std::int64_t weights_version,
                         const fs::path& where) {
    const ResponseOptions options = {.samples = 1,
                                     .sampling = settings.eval.compare.sampling,
                                     .seed = detail::evaluation_seed(settings.seed).fork("answers"),
                                     .weights_version = weights_version};
    answer(file, model, kept_evaluation_prompts(), options, where);
  }

  fs::path evaluation_answers(std::int64_t round) const {
    return round == 0 ? evaluation_folder() / "answers.jsonl" : folder->round(round) / "eval_answers.jsonl";
  }

  void evaluate(std::int64_t round) {
    const fs::path where = folder->round(round);
    if (fs::exists(where / "eval.json")) return;
    answer_evaluation(model_of(round), evaluation_answers(round), round, where);

    const std::vector<Prompt> prompts = kept_evaluation_prompts();
    const fs::path judge = settings.eval.judge.empty() ? fs::path(settings.model) : fs::path(settings.eval.judge);
    CompareOptions options = settings.eval.compare;
    options.seed = detail::evaluation_seed(settings.seed).fork("compare");
    const auto answers = [&](std::int64_t of_round, const char* who) {
      std::vector<Response> all = read_jsonl<Response>(evaluation_answers(of_round));
      for (Response& response : all) response.id = fmt::format("{}-{}", response.prompt_id, who);
      return all;
    };
    OrderedJson result = {{"prompts", prompts.size()}};
    with_engine(judge, where, [&](Engine& engine) {
      const Comparison base =
          compare_answers(prompts, answers(round, "model"), answers(0, "baseline"), engine, options, judge_templates);
      const OrderedJson against_base = detail::comparison_to_json(base);
      result["against_start"] = round == 1 ? against_base
                                           : detail::comparison_to_json(compare_answers(
                                                 prompts, answers(round, "model"), answers(round - 1, "baseline"),
                                                 engine, options, judge_templates));
      result["against_base"] = against_base;
      say(LogLevel::kInfo,
          fmt::format("win rate against the base {:.3f} (standard error {:.3f}), length-controlled {:.3f}",
                      base.win_rate.win_rate, base.win_rate.standard_error, base.length_controlled.win_rate));
      return prompts.size();
    });
    write_file_atomically(where / "eval.json", detail::dump_json_pretty(result));
  }
};

Run::Run(const fs::path& folder, const RunSettings& settings, const RunFolderOptions& options, LogSink log,
         ProgressSink progress)
    : impl_(std::make_unique<Impl>(folder, settings, options, std::move(log), std::move(progress))) {}
Run::~Run() = default;
Run::Run(Run&&) noexcept = default;

bool Run::step() { return impl_->step(); }
const std::string& Run::stage() const { return impl_->stage; }

}  // namespace sao
