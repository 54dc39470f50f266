#!/usr/bin/env bash
# lm-evaluation-harness, its model local-chat-completions, on a task of two questions. pip install "lm-eval[api]"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
question="Find the Least Common Multiple (LCM) of these numbers:"
printf '{"question": "%s 14, 20", "answer": "140"}\n{"question": "%s 4, 6", "answer": "12"}\n' "$question" "$question" > "$folder/multiples.jsonl"
cat > "$folder/multiples.yaml" <<YAML
task: multiples
dataset_path: json
dataset_kwargs: {data_files: {test: "$folder/multiples.jsonl"}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], max_gen_toks: 400}
filter_list:
  - name: boxed
    filter: [{function: regex, regex_pattern: 'boxed\{([^}]*)\}'}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
YAML
export OPENAI_API_KEY=${REFLECTIVE_KEY:-none}
url=${REFLECTIVE_URL:-http://127.0.0.1:8000}
"${LM_EVAL:-lm_eval}" --model local-chat-completions --tasks multiples --include_path "$folder" --apply_chat_template \
  --model_args "model=${REFLECTIVE_MODEL:-nano},base_url=$url/v1/chat/completions,num_concurrent=2"
