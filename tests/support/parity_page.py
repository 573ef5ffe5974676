# SPDX-License-Identifier: Apache-2.0
"""docs/parity.md from what the tests reported (parity_report.h): parity_page.py REPORT > docs/parity.md"""

import pathlib
import re
import sys

INTRO = """# Parity

What libsao computes beside what the reference implementations compute, on the same inputs. Made by `./dev parity`, which runs the
tests and writes down what each comparison found; the tests fail above the tolerance. Fixtures: `tests/golden/*` (each with the
script that made it) and further sets of the same kinds that are kept outside the repository; where they are absent, their rows are
missing here. References: transformers 5.17.0, TRL 1.16.0, PEFT 0.21.2, tokenizers 0.23.3, sentencepiece 0.2.3, jinja2 3.1.6,
lm-evaluation-harness 0.4.13, the published AlpacaEval 2.0 leaderboard; LibTorch 2.11 on both sides.

A tolerance of 0 means equal, and "worst" then counts what differs. "relative" differences are |ours - reference| / |reference|.
"""

ORDER = ["model", "LoRA", "generation", "tokenizer", "chat template", "tokens of pairs", "loss", "gradient", "metrics", "training",
         "data", "evaluation", "broken input"]


def main() -> None:
    rows: dict[tuple[str, str, str], list] = {}
    for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
        area, subject, what, compared, worst, tolerance, case = (line.split("\t") + [""] * 7)[:7]
        old = rows.get((area, subject, what))
        new = [int(compared), float(worst), float(tolerance), case]
        if old is not None:  # the same comparison reported in parts
            worse = new if new[1] > old[1] or new[1] != new[1] else old
            new = [old[0] + new[0], worse[1], max(old[2], new[2]), worse[3]]
        rows[area, subject, what] = new
    if not rows:
        sys.exit("parity_page: no comparison was reported")
    print(INTRO, end="")
    areas = sorted({key[0] for key in rows}, key=lambda area: (ORDER.index(area) if area in ORDER else len(ORDER), area))
    for area in areas:
        mine = sorted((key, row) for key, row in rows.items() if key[0] == area)
        print(f"\n## {area[0].upper()}{area[1:]}\n")
        print("| what is compared | subject | compared | worst | tolerance | worst case |")
        print("|---|---|---:|---:|---:|---|")
        for (_, subject, what), (compared, worst, tolerance, case) in sorted(mine, key=lambda item: (item[0][2], item[0][1])):
            exact = tolerance == 0 and worst == int(worst)
            shown = f"{int(worst)}" if exact else f"{worst:.2g}"
            escaped = re.sub(r"([|])", r"\\\1", case)
            print(f"| {what} | {subject} | {compared:,} | {shown} | {'equal' if tolerance == 0 else f'{tolerance:.0e}'} | {escaped} |")


main()
