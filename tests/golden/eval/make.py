"""Win rates of synthetic judgements by scikit-learn and SciPy: python make.py (scikit-learn 1.9, scipy, numpy). Seed 20261.

Writes length_control.json (our own length-controlled win rate) and annotations.json, df_gamed.csv, instruction_difficulty.csv,
alpaca.json (AlpacaEval's length_controlled_v1 on synthetic rows).
"""
import csv
import json
import math
import pathlib
import warnings

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

warnings.filterwarnings("ignore")
here = pathlib.Path(__file__).parent
rng = np.random.default_rng(20261)


def length_controlled(y, model, baseline, ridge=1e-6):
    d = baseline - model
    sd = d.std(ddof=1)
    x = np.column_stack([np.tanh(d / sd) if sd > 0 else np.zeros_like(d), np.ones_like(d)])

    def loss(w):
        z = x @ w
        return np.sum(np.logaddexp(0, z) - y * z) + ridge * w @ w / 2, x.T @ (expit(z) - y) + ridge * w

    def hessian(w):
        p = expit(x @ w)
        return (x.T * (p * (1 - p))) @ x + ridge * np.eye(2)

    w = minimize(loss, np.zeros(2), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-12}).x
    for _ in range(5):  # polish
        w = w - np.linalg.solve(hessian(w), loss(w)[1])
    p = expit(x @ w)
    inverse = np.linalg.inv(hessian(w))
    covariance = inverse @ ((x.T * (y - p) ** 2) @ x) @ inverse
    lc = expit(w[1])
    return {"length_coefficient": w[0], "intercept": w[1], "win_rate": lc,
            "standard_error": lc * (1 - lc) * math.sqrt(covariance[1, 1])}


def cases():
    n = 120
    for name, like_length, quality, hard in [("soft", 1.5, 0.4, False), ("hard", 2.0, -0.3, True), ("no length", 0.0, 0.2, True)]:
        baseline = rng.integers(40, 900, n).astype(float)
        model = np.round(baseline * rng.uniform(0.5, 2.2, n))
        p = expit(quality + like_length * np.tanh((model - baseline) / 200) + rng.normal(0, 0.7, n))
        y = (rng.uniform(size=n) < p).astype(float) if hard else p
        yield name, y, model, baseline
    yield "all wins", np.ones(20), rng.integers(1, 99, 20).astype(float), rng.integers(1, 99, 20).astype(float)
    yield "one length", np.array([1, 0, 1, 1, 0.5]), np.full(5, 30.0), np.full(5, 30.0)


out = []
for name, y, model, baseline in cases():
    row = {"name": name, "preferences": y.tolist(), "model_lengths": model.tolist(), "baseline_lengths": baseline.tolist()}
    row.update(length_controlled(y, model, baseline))
    row["plain"] = {"win_rate": y.mean(), "standard_error": y.std(ddof=1) / math.sqrt(len(y)),
                    "discrete_win_rate": np.where(y == 0.5, 0.5, y > 0.5).mean()}
    near = np.abs(model - baseline) <= 0.05 * np.maximum(model, baseline)
    row["equal_n"] = int(near.sum())
    row["equal_win_rate"] = y[near].mean() if near.any() else 0.5
    out.append(row)
(here / "length_control.json").write_text(json.dumps(out, indent=1) + "\n")

# AlpacaEval on synthetic rows.
n, gamed = 60, 80
difficulty = np.round(rng.normal(0, 0.8, n + 5), 6)
gamed_t = np.round(rng.normal(0, 1, gamed), 6)
gamed_d = np.round(rng.normal(0, 0.8, gamed), 6)
gamed_y = np.round(expit(-1.2 * np.tanh(gamed_t) + 0.5 * gamed_d + rng.normal(0, 0.6, gamed)), 6)
with open(here / "df_gamed.csv", "w") as file:
    file.write("model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n")
    for j in range(gamed):
        file.write(f"model_{'verbose' if j < gamed // 2 else 'concise'},{j % (gamed // 2)},{gamed_y[j]},{gamed_t[j]},{gamed_d[j]},False\n")
with open(here / "instruction_difficulty.csv", "w") as file:
    file.write("index,instruction_difficulty\n" + "".join(f"{i},{d}\n" for i, d in enumerate(difficulty)))
rows, preference, lengths_1, lengths_2 = [], [], [], []
for i in range(n):
    one, two = int(rng.integers(0, 60)), int(rng.integers(10, 90))
    filler = rng.choice(["a", "é", "猫", "😀"])
    p = round(float(expit(0.3 + 0.03 * (two - one) + 0.6 * difficulty[i] + rng.normal(0, 0.8))) + 1, 6)
    p = None if i == 7 else 0.0 if i == 11 else 1.5 if i == 13 else p
    text_1, text_2 = str(filler) * one, str(filler) * two
    rows.append({"instruction": f"do {i}", "output_1": text_1, "generator_1": "base", "output_2": text_2,
                 "generator_2": "ours", "annotator": "judge", "preference": p})
    preference.append(math.nan if p is None else p)
    lengths_1.append(len(text_1))
    lengths_2.append(len(text_2))
(here / "annotations.json").write_text(json.dumps(rows, indent=0) + "\n")

p = np.array(preference)
p = np.where(p == 0, 1.5, p)
ok = ~np.isnan(p)
delta = np.array(lengths_1, float) - np.array(lengths_2, float)
t = np.tanh(delta / delta.std(ddof=1))
X = np.vstack([np.column_stack([np.tanh(gamed_t), gamed_d, np.zeros(gamed)]), np.column_stack([t, difficulty[:n], np.ones(n)])[ok]])
y = np.concatenate([gamed_y, p[ok] - 1])
s = np.concatenate([np.full(gamed, 0.1), np.ones(ok.sum())])


def fit(rows, c):
    model = LogisticRegression(penalty="l1", C=c, solver="liblinear", fit_intercept=False, tol=1e-13, max_iter=1000000)
    model.fit(np.vstack([X[rows], X[rows]]), np.r_[np.ones(len(rows)), np.zeros(len(rows))],
              sample_weight=np.r_[s[rows] * y[rows], s[rows] * (1 - y[rows])])
    return model.coef_[0]


result = {"by_c": []}
cs = [10.0 ** (-4 + 8 * i / 9) for i in range(10)]
score = np.zeros(10)
for train, test in GroupKFold(5).split(X, groups=np.arange(len(y))):
    for j, c in enumerate(cs):
        q = np.clip(expit(X[test] @ fit(train, c)), 1e-15, 1 - 1e-15)
        score[j] += np.mean(s[test] * (y[test] * np.log(q) + (1 - y[test]) * np.log(1 - q)))
for c in cs:
    w = fit(np.arange(len(y)), c)
    q = expit(w[1] * difficulty[:n] + w[2])
    result["by_c"].append({"c": c, "coefficients": w.tolist(), "lc": 100 * q.mean(), "lc_se": 100 * q.std(ddof=1) / math.sqrt(n)})
result["chosen"] = int(np.argmax(score))
q = p[ok] - 1
result["plain"] = {"win_rate": 100 * q.mean(), "standard_error": 100 * q.std(ddof=1) / math.sqrt(len(q)),
                   "discrete_win_rate": 100 * np.where(q == 0.5, 0.5, q > 0.5).mean(), "n": int(ok.sum()),
                   "n_wins": int((q > 0.5).sum()), "n_wins_base": int((q < 0.5).sum()), "n_draws": int((q == 0.5).sum())}
(here / "alpaca.json").write_text(json.dumps(result, indent=1) + "\n")
