#!/usr/bin/env bash
# Times the start of a server with the embedded model: from the command to health SERVING.
#
#   scripts/start_time.sh [RUNS]      (default: 5, after one that warms the file cache)
set -euo pipefail
cd "$(dirname "$0")/.."
port=50097
for run in $(seq 0 "${1:-5}"); do
    start=$(date +%s.%N)
    .venv/bin/talkwire serve --port "$port" 2>/dev/null &
    server=$!
    .venv/bin/talkwire ready "localhost:$port" --timeout 300
    end=$(date +%s.%N)
    kill "$server" && wait "$server"
    [ "$run" = 0 ] || awk -v run="$run" -v s="$start" -v e="$end" 'BEGIN { printf "run %d: %.1f s\n", run, e - s }'
done
