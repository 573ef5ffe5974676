// SPDX-License-Identifier: Apache-2.0
#include <sao/base/error.h>
#include <sao/model/causal_lm.h>

#include <memory>

#include "arguments.h"
#include "commands.h"
#include "model_options.h"

namespace sao::cli {
namespace {

struct Merge {
  explicit Merge(CLI::App& app) : arguments(app) {
    add_model_options(arguments, options);
    arguments.add("output", output, "folder for the model with the adapters added to its weights", "o");
    arguments.add("save-dtype", save_dtype, "dtype of the saved weights; nothing is --dtype");
  }

  void run() {
    arguments.finish();
    for (const char* name : {"model", "adapter", "output"}) arguments.require(name);
    check_model_options(options);
    const DType dtype = check_save_dtype(save_dtype, options);
    load_model(options).merged(dtype).save(output, model_folder(options.model));
  }

  Arguments arguments;
  ModelOptions options;
  std::string output, save_dtype;
};

}  // namespace

Run merge_command(CLI::App& app) {
  return [command = std::make_shared<Merge>(app)] { command->run(); };
}

}  // namespace sao::cli
