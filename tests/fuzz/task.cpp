// SPDX-License-Identifier: Apache-2.0
// Benchmark rows, one a line.
#include "eval/task_row.h"
#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "sao/io/jsonl.h"

void sao::fuzz::task(std::string_view input) {
  static const Folder folder;
  if (input.empty()) return;
  const TaskOptions options;
  const detail::RowReader reader(options);
  accepted([&] {
    for_each_line(folder.write("task.jsonl", input), [&](std::string_view line) {
      const detail::TaskRow row = reader.read(line);
      if (row.kind == TaskKind::kMultipleChoice && row.truths.empty())
        expect(row.right < row.choices.size(), "the answer is a choice");
    });
  });
}
