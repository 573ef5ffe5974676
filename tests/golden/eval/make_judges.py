"""Judges' texts and battles by FastChat's llm_judge and scikit-learn: python make_judges.py (fschat 0.2.36, scikit-learn 1.9, pandas,
numpy). Seed 20310. Writes mt_bench.json, mt_bench_single.jsonl, mt_bench_pair.jsonl, arena_battles.jsonl, arena.json."""
import argparse
import contextlib
import io
import json
import math
import pathlib
import random
import re
import sys
import types
import warnings

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore")
for name, values in {"openai": ["x"], "anthropic": ["x"],
                     "fastchat.model.model_adapter": ["get_conversation_template", "ANTHROPIC_MODEL_LIST", "OPENAI_MODEL_LIST"]}.items():
    module = types.ModuleType(name)  # clients of services, not needed here
    for value in values:
        setattr(module, value, None)
    sys.modules[name] = module
sys.modules["fastchat.model"] = types.ModuleType("fastchat.model")
from fastchat.llm_judge import common, show_result

here = pathlib.Path(__file__).parent
rng = random.Random(20310)

# MT-Bench: what run_judge_single and run_judge_pair read out of a text.
pieces = ["Rating: ", "[[", "]]", "[", "]", "7", "10", "8.5", "9.", ".5", " ", "A", "B", "C", "[[A]]", "[[B]]", "[[C]]", "[[6]]", "[4]", "\n"]
texts = ["".join(rng.choice(pieces) for _ in range(rng.randrange(0, 10))) for _ in range(400)]


class Judge:
    """Says a text, in place of a service."""

    def __init__(self, text, kind):
        self.model_name, self.multi_turn, self.ref_based = "gpt-4", False, False
        self.prompt_template = {"name": kind, "type": kind, "system_prompt": "", "prompt_template": "",
                                "output_format": "[[rating]]" if kind == "single" else "[[A]]"}
        self.text = text


class Conversation:
    roles = ["user", "assistant"]

    def __getattr__(self, name):
        return lambda *a, **k: None


common.get_conversation_template = lambda model: Conversation()
common.OPENAI_MODEL_LIST, common.ANTHROPIC_MODEL_LIST = ["gpt-4"], []
common.get_conv_template = lambda *a: Conversation()
question = {"question_id": 1, "turns": ["q"], "category": "writing"}
answer = {"choices": [{"turns": ["a"]}]}
cases = []
for text in texts:
    common.chat_completion_openai = lambda *a, **k: text
    try:
        rating = common.run_judge_single(question, answer, Judge(text, "single"), None)[0]
    except SyntaxError:  # a number like 07
        continue
    winner = common.run_judge_pair(question, answer, answer, Judge(text, "pairwise"), None)[0]
    cases.append({"text": text, "rating": rating, "winner": winner})

single = [{"question_id": q, "model": m, "judge": ["gpt-4", "single-v1"], "score": rng.choice([-1, 3, 7, 8.5, 9, 10]), "turn": t}
          for m in ["one", "two", "three"] for q in range(12) for t in (1, 2)]
(here / "mt_bench_single.jsonl").write_text("".join(json.dumps(r) + "\n" for r in single))
frame = pd.DataFrame(single)[["model", "score", "turn"]]
frame = frame[frame["score"] != -1]  # as display_result_single
scores = {m: {"score": frame[frame.model == m].score.mean(), "first": frame[(frame.model == m) & (frame.turn == 1)].score.mean(),
              "second": frame[(frame.model == m) & (frame.turn == 2)].score.mean()} for m in ["one", "two", "three"]}
winners = ["model_1", "model_2", "tie", "error"]
pair = [{"question_id": q, "model_1": a, "model_2": b, "g1_winner": rng.choices(winners, [4, 3, 2, 1])[0],
         "g2_winner": rng.choices(winners, [4, 3, 2, 1])[0]} for a, b in [("one", "two"), ("one", "three"), ("two", "three")] for q in range(25)]
(here / "mt_bench_pair.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair))
shown = []
print_ = print
show_result.print = lambda *a, **k: shown.append(a[0])
show_result.display_result_pairwise(argparse.Namespace(input_file=str(here / "mt_bench_pair.jsonl"), model_list=None, baseline_model=None))
table = next(x for x in shown if isinstance(x, pd.DataFrame))
(here / "mt_bench.json").write_text(json.dumps({"cases": cases, "scores": scores, "pairs": table.to_dict("index")}, indent=0) + "\n")

# Arena-Hard: Bradley-Terry over battles among five models, one of which wins everything against one other.
strength = {"base": 0.0, "weak": -1.5, "even": 0.1, "strong": 1.2, "best": 2.5}
battles = []
for _ in range(400):
    a, b = rng.sample(list(strength), 2)
    p = 1 / (1 + math.exp(strength[b] - strength[a]))
    u = rng.random()
    battles.append({"model_a": a, "model_b": b, "winner": "tie" if u < 0.1 else "model_a" if rng.random() < p else "model_b"})
(here / "arena_battles.jsonl").write_text("".join(json.dumps(r) + "\n" for r in battles))
models = sorted(strength)
x, y = [], []
for battle in battles:
    row = np.zeros(len(models))
    row[models.index(battle["model_a"])], row[models.index(battle["model_b"])] = math.log(10), -math.log(10)
    for won in ([1, 0] if battle["winner"] == "tie" else [int(battle["winner"] == "model_a")] * 2):
        x.append(row)
        y.append(won)
fit = LogisticRegression(fit_intercept=False, penalty=None, tol=1e-12, max_iter=100000).fit(np.array(x), np.array(y))
elo = 400 * fit.coef_[0] + 1000
elo = elo - elo[models.index("base")] + 1000
pattern = re.compile(r"\[\[([AB<>=]+)\]\]")
labels = ["[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]", "[[B>>A]]", "[[a>b]]", "[[]]", "[[A>B]", "[[[B>A]]]", "[[AB]]", "so ", "\n", "["]
verdicts = []
for _ in range(300):
    text = "".join(rng.choice(labels) for _ in range(rng.randrange(0, 4)))
    found = [m for m in pattern.findall(text) if m]
    unique = found[0] if len(set(found)) == 1 else None
    upper = [m for m in pattern.findall(text.upper()) if m]
    verdicts.append({"text": text, "unique": unique, "last": upper[-1] if upper else None})
(here / "arena.json").write_text(json.dumps({
    "elo": dict(zip(models, elo.tolist())), "score": {m: 100 / (1 + 10 ** ((1000 - e) / 400)) for m, e in zip(models, elo.tolist())},
    "verdicts": verdicts}, indent=0) + "\n")
