// SPDX-License-Identifier: Apache-2.0
// The program `microworld`: makes the bundled model, runs the demo on it, and measures the controls.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "demo.h"
#include "experiment.h"
#include "pretrain.h"
#include "sao/base/error.h"
#include "sao/base/memory.h"

namespace {

// Every field of an options struct as a flag.
struct Flags {
  CLI::App* command;
  template <class Field>
  void operator()(const char* name, Field& field, const char* help) const {
    std::string flag = std::string("--") + name;
    for (char& c : flag) c = c == '_' ? '-' : c;
    command->add_option(flag, field, help)->capture_default_str();
  }
};

void print(sao::LogLevel, std::string_view message) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(message.size()), message.data());
}

}  // namespace

int main(int argc, char** argv) try {
  sao::keep_freed_memory();
  CLI::App app{"The bundled model of libsao: its pretraining, the demo, and the controls"};
  app.require_subcommand(1);

  microworld::PretrainOptions pretrain_options;
  std::string folder;
  CLI::App* pretrain = app.add_subcommand("pretrain", "make the bundled model from nothing");
  pretrain->add_option("folder", folder, "the model folder to write")->required();
  visit_fields(Flags{pretrain}, pretrain_options);
  pretrain->callback([&] { microworld::pretrain(folder, pretrain_options, print); });

  microworld::RoundSettings settings;
  std::int64_t seeds = 5, requests = 500, round_count = 3, prompts = 1000;
  double temperature = 1.0;
  std::vector<std::string> only;
  const auto add_command = [&](const char* name, const char* help) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("folder", folder, "the model folder")->required();
    command->add_option("--seeds", seeds, "repetitions with other seeds")->capture_default_str();
    return command;
  };
  CLI::App* controls = add_command("controls", "one round with its parts exchanged: verdicts, orders, losses");
  controls->add_option("--requests", requests, "held-out requests")->capture_default_str();
  controls->add_option("--only", only, "variants whose name contains this");
  visit_fields(Flags{controls}, settings);
  controls->callback(
      [&] { std::fputs(microworld::controls(folder, settings, seeds, requests, only, print).c_str(), stdout); });

  CLI::App* rounds = add_command("rounds", "several rounds in a row");
  rounds->add_option("--rounds", round_count, "how many")->capture_default_str();
  rounds->add_option("--requests", requests, "held-out requests")->capture_default_str();
  visit_fields(Flags{rounds}, settings);
  rounds->callback(
      [&] { std::fputs(microworld::rounds(folder, settings, round_count, seeds, requests, print).c_str(), stdout); });

  CLI::App* health = app.add_subcommand("health", "what a model knows, and what its judge sees");
  health->add_option("folder", folder, "the model folder")->required();
  health->add_option("--requests", requests, "held-out requests")->capture_default_str();
  health->callback([&] { std::fputs(microworld::health(folder, requests).c_str(), stdout); });

  CLI::App* diversity = add_command("diversity", "how much persona prompts and unguided prompts repeat");
  diversity->add_option("--count", prompts, "prompts of each kind")->capture_default_str();
  diversity->add_option("--temperature", temperature, "of both kinds")->capture_default_str();
  diversity->callback([&] { std::fputs(microworld::diversity(folder, prompts, temperature, seeds).c_str(), stdout); });

  microworld::DemoOptions demo_options;
  std::string run_folder = "build/demo";
  folder = "examples/microworld/model";
  CLI::App* demo = app.add_subcommand("demo", "one whole round on the bundled model, with a closing table");
  demo->add_option("--model", folder, "the model folder")->capture_default_str();
  demo->add_option("--run", run_folder, "the run folder; a run that was stopped goes on")->capture_default_str();
  visit_fields(Flags{demo}, demo_options);
  visit_fields(Flags{demo}, settings);
  demo->callback([&] { microworld::demo(folder, run_folder, settings, demo_options); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return 0;
} catch (const sao::Error& error) {
  std::fprintf(stderr, "microworld: %s\n", error.what());
  return 1;
}
