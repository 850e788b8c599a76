#!/bin/sh
# Counts how often each word stands in text.txt, in ten parts, saying after each how far it is.
# Leaves out/frequencies.txt: "count word", the most frequent first.
set -eu
export LC_ALL=C
mkdir -p out
lines=$(wc -l <text.txt)
part=$(((lines + 9) / 10))
: >out/words
i=0
while [ "$i" -lt 10 ]; do
  tail -n "+$((i * part + 1))" text.txt | head -n "$part" | tr '[:upper:]' '[:lower:]' | tr -cs '[:lower:]' '\n' | grep . >>out/words || true
  i=$((i + 1))
  echo "part $i of 10: $(wc -l <out/words) words so far, $(sort -u out/words | wc -l) different"
  # so that somebody who watches sees it come piece by piece
  sleep 0.1
done
sort out/words | uniq -c | awk '{ print $1, $2 }' | sort -k1,1nr -k2 >out/frequencies.txt
rm out/words
echo "the most frequent: $(head -n 5 out/frequencies.txt | tr '\n' ';')"
echo "done, a word on standard error too" >&2
