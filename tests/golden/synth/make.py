"""Self-BLEU and n-gram measures of small texts by NLTK and by definition: python make.py (nltk 3.10.4). Writes diversity.json."""
import itertools
import json
import pathlib
import random
import re

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

rng = random.Random(20260)
WORDS = "how do i bake bread at home without an oven in the winter when nights are long and flour is dear".split()
POOL = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 14))) for _ in range(24)]


def sets():
    yield "varied", POOL
    yield "with copies", POOL[:8] + POOL[:4] + [POOL[0].upper() + "!"]
    yield "near copies", ["please list ten good names for a small brown dog that likes to swim in cold lakes and rivers",
                          "please list ten good names for a small brown dog that likes to swim in cold lakes",
                          "tell me why the sky is blue and the grass is green in plain words",
                          "tell me why the sea is blue and the moss is green in plain words",
                          "one", "one two", "Three, four; five."]
    yield "two", ["a b c d e f", "a b c d x y"]
    yield "nothing shared", ["alpha beta gamma delta", "epsilon zeta eta theta", "iota"]
    yield "with empty", ["", "a b c", "a b c d", "?!"]


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def ngrams(w, n):
    return [tuple(w[i:i + n]) for i in range(len(w) - n + 1)]


def shingles(w, n):
    return set(ngrams(w, n)) if len(w) >= n else ({tuple(w)} if w else set())


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 1.0


cases = []
for name, texts in sets():
    w = [words(t) for t in texts]
    smoothing = SmoothingFunction().method1
    bleu = [sentence_bleu(w[:i] + w[i + 1:], w[i], smoothing_function=smoothing) if w[i] else 0.0 for i in range(len(w))]
    sh = [shingles(x, 3) for x in w]
    near = [any(i != j and jaccard(sh[i], sh[j]) >= 0.8 for j in range(len(w))) for i in range(len(w))]
    four = [ngrams(x, 4) for x in w]
    repeated = sum(any(g in four[j] for j in range(len(w)) if j != i) for i in range(len(w)) for g in four[i])
    total = sum(map(len, four))
    distinct = []
    for n in range(1, 5):
        every = list(itertools.chain(*(ngrams(x, n) for x in w)))
        distinct.append(len(set(every)) / len(every) if every else 0.0)
    cases.append({"name": name, "texts": texts, "self_bleu": sum(bleu) / len(bleu),
                  "exact_duplicate_share": 1 - len(set(map(tuple, w))) / len(w),
                  "near_duplicate_share": sum(near) / len(near),
                  "repeated_4gram_share": repeated / total if total else 0.0, "distinct": distinct})
pathlib.Path(__file__).with_name("diversity.json").write_text(json.dumps(cases, indent=1) + "\n")
