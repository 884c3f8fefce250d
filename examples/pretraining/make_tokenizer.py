#!/usr/bin/env python3
# Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
"""Makes the tokenizer of the example base model. A maintainer's tool, run once: qlora4j itself needs no Python.

    python3 make_tokenizer.py nsmc-train.jsonl ../model

Reads the "text" of every line (written by extract-nsmc.sh) and writes tokenizer.json, tokenizer_config.json and
special_tokens_map.json. BPE over characters: the commonest characters have a token each, anything else is spelled in
UTF-8 bytes (byte fallback), so there is no unknown token. The same input and library version give the same files, byte
for byte (see requirements.txt).
"""

import json
import sys
from collections import Counter
from pathlib import Path

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LIBRARY_VERSION = "0.23.2"
VOCABULARY = 4608  # a multiple of 64; with it the model, tied embedding included, stays near 7 MB in bf16
ALPHABET = 2000  # covers all but one character in ten thousand of the reviews
CONTEXT = 512
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPECIAL = [PAD, BOS, EOS]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# A token is a piece of: Hangul letters standing alone (as in laughter), other letters, one digit, or signs, each with
# the space before it. So words are not glued to punctuation, and numbers are spelled out.
LETTERS = "\u3131-\u318e"
PIECES = rf" ?[{LETTERS}]+| ?[^\s\p{{N}}\p{{P}}\p{{S}}{LETTERS}]+| ?\p{{N}}| ?[\p{{P}}\p{{S}}]+|\s+"


def documents(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def train(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    # The alphabet is chosen here because the library's own choice among equally common characters varies.
    counts = Counter(character for text in documents(path) for character in text.replace(" ", "\u2581"))
    alphabet = sorted(counts, key=lambda character: (-counts[character], character))[:ALPHABET]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(BYTES),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(path), trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    # Every sequence starts with <s>, so that the first word is predicted too and an empty prompt is a prompt.
    # </s> is put behind an example by the trainer, never by the tokenizer.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    # The library has no trainer option for byte tokens that are not "special" (special ones vanish in decoding), so
    # they are put between the special tokens and the characters here.
    learned = [token for token, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])][len(SPECIAL) :]
    model["vocab"] = {token: number for number, token in enumerate(SPECIAL + BYTES + learned)}
    model["byte_fallback"] = True
    if len(model["vocab"]) != VOCABULARY:
        sys.exit(f"the input gave {len(model['vocab'])} tokens, not {VOCABULARY}: is it complete?")
    Tokenizer.from_str(json.dumps(content))  # does it load?
    return content


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if tokenizers.__version__ != LIBRARY_VERSION:
        sys.exit(f"made with tokenizers {LIBRARY_VERSION}, found {tokenizers.__version__}: the result would differ")
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    write(target / "tokenizer.json", train(source), indent=None)
    write(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
        },
        indent=2,
    )
    write(target / "special_tokens_map.json", {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}, indent=2)


def write(path, content, indent):
    separators = None if indent else (",", ":")
    text = json.dumps(content, ensure_ascii=False, indent=indent, separators=separators)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
