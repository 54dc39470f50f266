#!/usr/bin/env bash
# curl: an answer, a stream with everything that happens, and the score of a response. With keys: REFLECTIVE_KEY
set -euo pipefail
url=${REFLECTIVE_URL:-http://127.0.0.1:8000}
question='"messages": [{"role": "user", "content": "Find the Least Common Multiple (LCM) of these numbers: 14, 20"}]'
ask() { curl --silent --show-error --fail-with-body --no-buffer "$url/v1/$1" \
  -H "Authorization: Bearer ${REFLECTIVE_KEY:-none}" -H "Content-Type: application/json" -d "$2"; echo; }
model="\"model\": \"${REFLECTIVE_MODEL:-nano}\""
ask chat/completions "{$model, $question, \"reasoning_effort\": \"low\"}"
ask chat/completions "{$model, $question, \"stream\": true, \"reflective\": {\"effort\": 2, \"events\": true}}"
ask score "{$model, $question, \"response\": \"20 / 2 = 10.\n\n10 * 14 = 140.\n\n</think>\\\\boxed{140}\"}"
