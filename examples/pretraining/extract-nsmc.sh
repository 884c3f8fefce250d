#!/bin/sh
# Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#
# Turns the NSMC movie reviews into the pretraining input of the example base model.
#
#   extract-nsmc.sh RATINGS OUTPUT_DIR
#
# RATINGS     ratings_train.txt or ratings_train.txt.xz: tab-separated, header "id document label", label 0 or 1
# OUTPUT_DIR  receives nsmc-train.jsonl and nsmc-heldout.jsonl, one {"text": ...} a line
#
# Needs a POSIX shell and awk, and xz for a compressed input. The output depends on the input alone: the order is
# the input's, nothing is drawn at random, and everything runs in the C locale, so that every awk sees bytes.
set -eu

if [ $# -ne 2 ] || [ ! -f "$1" ]; then
  echo "usage: $0 ratings_train.txt[.xz] OUTPUT_DIR" >&2
  exit 2
fi
ratings=$1
output=$2
mkdir -p "$output"
LC_ALL=C
export LC_ALL

case $ratings in
  *.xz) xz -dc -- "$ratings" ;;
  *) cat -- "$ratings" ;;
esac | awk -F '\t' -v train="$output/nsmc-train.jsonl" -v heldout="$output/nsmc-heldout.jsonl" '
  # Long runs of one sign say nothing that three do not, and would eat vocabulary and training time.
  function squeeze(text) {
    gsub(/ㅋㅋㅋ(ㅋ)+/, "ㅋㅋㅋ", text)
    gsub(/ㅎㅎㅎ(ㅎ)+/, "ㅎㅎㅎ", text)
    gsub(/ㅠㅠㅠ(ㅠ)+/, "ㅠㅠㅠ", text)
    gsub(/ㅜㅜㅜ(ㅜ)+/, "ㅜㅜㅜ", text)
    gsub(/\.\.\.\.+/, "...", text)
    gsub(/!!!!+/, "!!!", text)
    gsub(/\?\?\?\?+/, "???", text)
    gsub(/~~~~+/, "~~~", text)
    gsub(/;;;;+/, ";;;", text)
    gsub(/ +/, " ", text)
    sub(/^ /, "", text)
    sub(/ $/, "", text)
    return text
  }
  BEGIN {
    # UTF-8 of the Hangul syllables U+AC00 to U+D7A3 and of the letters U+3131 to U+318E. Composed forms only, so
    # every document is in NFC.
    syllable = "(\352[\260-\277][\200-\277]|[\353\354][\200-\277][\200-\277]|\355[\200-\235][\200-\277]|\355\236[\200-\243])"
    letter = "(\343\204[\261-\277]|\343\205[\200-\277]|\343\206[\200-\216])"
    plain = "^([ -~]|" syllable "|" letter ")+$"
    # A small model repeats what it reads; the coarsest insults are left out.
    insult = "씨발|시발|씨바|시바|씹|썅|ㅅㅂ|ㅆㅂ|병신|븅신|빙신|ㅂㅅ|존나|졸라|ㅈㄴ|좆|새끼|새키|색히|쉐끼|지랄|ㅈㄹ|개독|홍어|김치녀|한남|쓰레기|쓰래기|창녀|걸레|미친놈|미친년|놈들|년들|닥쳐|꺼져|뒤져|죽어라|자살"
  }
  NR == 1 { next }
  NF != 3 || ($3 != "0" && $3 != "1") { malformed++; next }
  {
    text = squeeze($2)
    if (text !~ plain || index(text, "\\") > 0) { characters++; next }
    if (text ~ insult) { insults++; next }
    words = split(text, unused, " ")
    copy = text
    # At least four words and ten syllables: below that a review is an exclamation.
    if (words < 4 || gsub(syllable, "", copy) < 10) { short++; next }
    if (text in seen) { duplicates++; next }
    seen[text] = 1
    gsub(/"/, "\\\\&", text)
    kept++
    document[kept] = text
    label[kept] = $3
    count[$3]++
  }
  END {
    if (kept == 0) { print "no usable review in the input" > "/dev/stderr"; exit 2 }
    each = count["0"] < count["1"] ? count["0"] : count["1"]
    printf "" > train
    printf "" > heldout
    for (i = 1; i <= kept; i++) {
      class = label[i]
      taken[class]++
      if (taken[class] > each) { surplus++; continue }
      file = taken[class] % 100 == 0 ? heldout : train
      printf "{\"text\": \"%s\"}\n", document[i] > file
      written[file, class]++
    }
    printf "left out: %d malformed, %d with other characters, %d with insults, %d too short, %d duplicates, %d of the larger class\n",
      malformed, characters, insults, short, duplicates, surplus
    printf "%s: %d negative, %d positive\n", train, written[train, "0"], written[train, "1"]
    printf "%s: %d negative, %d positive\n", heldout, written[heldout, "0"], written[heldout, "1"]
  }
'
