#!/usr/bin/env bash
# Simon Willison's llm: the server as one more model. pip install llm
set -euo pipefail
export LLM_USER_PATH=${LLM_USER_PATH:-$(mktemp -d)}
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<YAML
- model_id: reflective
  model_name: ${REFLECTIVE_MODEL:-nano}
  api_base: ${REFLECTIVE_URL:-http://127.0.0.1:8000}/v1
YAML
"${LLM:-llm}" --key "${REFLECTIVE_KEY:-none}" -m reflective "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
