#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Text to ids, one thread: libsao beside Hugging Face's `tokenizers`, on the same tokenizer.json and the same texts.

    python3 benchmarks/compare/tokenizing/run.py [--rounds 7] [--megabytes 2] [--vocab 100000] [--model FOLDER ...]

Without --model two tokenizers are trained on text of this machine (documents, C headers, Python sources): byte-level BPE
as Llama 3's and a SentencePiece-like BPE as Gemma's. The ids must be equal before anything is timed. Needs
`pip install tokenizers` and the program build/bin/compare_tokenizing.
"""

import argparse
import array
import gzip
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers)

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "build" / "bin" / "compare_tokenizing"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def texts_of_machine(bytes_wanted):
    """Files in a random but fixed order, the first 20 kB of each."""
    suffixes = (".txt", ".md", ".rst", ".py", ".h", ".pm", ".gz", ".html", "copyright", "README", "NEWS")
    paths = []
    for root in ["/usr/share/doc", "/usr/include", "/usr/share/perl", sysconfig.get_paths()["stdlib"]]:
        for folder, _, names in os.walk(root):
            paths += [os.path.join(folder, name) for name in names if name.endswith(suffixes)]
    paths.sort()
    random.Random(5).shuffle(paths)
    texts, size = [], 0
    for path in paths:
        try:
            data = gzip.open(path).read() if path.endswith(".gz") else open(path, "rb").read()
            text = data.decode("utf-8")[:20000]
        except (OSError, EOFError, UnicodeDecodeError):
            continue
        if len(text) < 200 or "\0" in text:
            continue
        texts.append(text)
        size += len(text.encode())
        if size >= bytes_wanted:
            break
    return texts


def train_byte_level(texts, vocab):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"] + [f"<|reserved_{i}|>" for i in range(250)])
    return tokenizer


def train_sentencepiece_like(texts, vocab):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator((line for text in texts for line in text.split("\n")),
                                trainers.BpeTrainer(vocab_size=vocab, limit_alphabet=2000, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    ids = {t: i for i, t in enumerate(["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{b:02X}>" for b in range(256)])}
    for token in state["vocab"]:
        ids.setdefault(token, len(ids))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[tuple(m) for m in state["merges"]], unk_token="<unk>",
                                     byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(1, 32)])
    return tokenizer


def read_ids(path):
    data = array.array("i", pathlib.Path(path).read_bytes())
    ids, at = [], 0
    while at < len(data):
        ids.append(data[at + 1:at + 1 + data[at]].tolist())
        at += 1 + data[at]
    return ids


def compare(name, folder, texts, rounds, work):
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encode = lambda: [reference.encode(text, add_special_tokens=False).ids for text in texts]
    file, ids_file = work / "texts", work / "ids"
    file.write_bytes(b"".join(text.encode() + b"\0" for text in texts))

    def ours(n):
        run = subprocess.run([PROGRAM, folder, file, str(n), ids_file], check=True, capture_output=True, text=True)
        return [float(line) for line in run.stdout.split()]

    ours(1)
    expected = encode()  # warms up, too
    wrong = sum(a != b for a, b in zip(read_ids(ids_file), expected, strict=True))
    if wrong:
        sys.exit(f"{name}: the ids of {wrong} of {len(texts)} texts differ")
    times = {"libsao": [], "tokenizers": []}
    for _ in range(rounds):  # in turns, so that what else the machine does falls on both
        times["libsao"] += ours(1)
        begin = time.perf_counter()
        encode()
        times["tokenizers"].append(time.perf_counter() - begin)
    size = sum(len(text.encode()) for text in texts)
    print(f"\n{name}: {reference.get_vocab_size()} tokens, {len(texts)} texts, {size / 1e6:.2f} MB, "
          f"{sum(map(len, expected))} ids, all equal")
    for side, seconds in times.items():
        rates = sorted(size / s / 1e6 for s in seconds)
        print(f"  {side:10} median {statistics.median(rates):7.2f} MB/s, {rates[0]:.2f} to {rates[-1]:.2f} in {rounds} rounds")
    print(f"  ratio of medians {statistics.median(times['tokenizers']) / statistics.median(times['libsao']):.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=float, default=2.0, help="of text that is encoded")
    parser.add_argument("--vocab", type=int, default=100000, help="of the byte-level tokenizer; the other one has 32000")
    parser.add_argument("--model", type=pathlib.Path, action="append", help="a folder with a tokenizer.json")
    options = parser.parse_args()
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM}: no such program, expected one built by ./dev build")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    print(f"{cpu}, {os.cpu_count()} CPUs, tokenizers {tokenizers.__version__}, one thread")
    texts = texts_of_machine(options.megabytes * 1e6 * (1 if options.model else 8))
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        tried = [(folder.name, folder) for folder in options.model or []]
        if not tried:
            tested = max(1, len(texts) // 8)
            texts, training = texts[:tested], texts[tested:]
            for name, tokenizer in [("byte-level BPE as Llama 3's", train_byte_level(training, options.vocab)),
                                    ("BPE with byte fallback as Gemma's", train_sentencepiece_like(training, 32000))]:
                folder = work / str(len(tried))
                folder.mkdir()
                tokenizer.save(str(folder / "tokenizer.json"))
                tried.append((name, folder))
        for name, folder in tried:
            compare(name, folder, texts, options.rounds, work)


if __name__ == "__main__":
    main()
