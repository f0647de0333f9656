#!/usr/bin/env bash
# Regenerates generated/ and docs/reference.md from proto/, with a generator of its own in .venv-proto.
#
#   scripts/proto.sh [OUT_DIR]      (default: here)
#
# The generator is pinned to the oldest runtime that talkwire supports: generated code refuses a
# runtime older than its generator, and accepts every newer one.
#
# talkwire.binpb is the contract and the details of its errors as descriptors, for proxies that make
# JSON of them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
pins="grpcio-tools==1.80.1 mypy-protobuf==5.1.0 googleapis-common-protos==1.75.0"
stamp=".venv-proto/$(echo "$pins" | tr ' =' '__')"
if [ ! -e "$stamp" ]; then
    rm -rf .venv-proto
    "${PYTHON:-python3}" -m venv .venv-proto
    # shellcheck disable=SC2086  # two words on purpose
    .venv-proto/bin/pip install --quiet --disable-pip-version-check $pins
    touch "$stamp"
fi
mkdir -p "$out/generated" "$out/docs"
PATH=".venv-proto/bin:$PATH" .venv-proto/bin/python -m grpc_tools.protoc \
    -I talkwire_proto/v1=proto/talkwire/v1 \
    --python_out="$out/generated" --grpc_python_out="$out/generated" \
    --mypy_out="$out/generated" --mypy_grpc_out="$out/generated" \
    --include_source_info --descriptor_set_out="$out/docs/reference.binpb" \
    proto/talkwire/v1/chat.proto
.venv-proto/bin/python scripts/reference.py <"$out/docs/reference.binpb" >"$out/docs/reference.md"
rm "$out/docs/reference.binpb"
.venv-proto/bin/python -m grpc_tools.protoc \
    -I talkwire_proto/v1=proto/talkwire/v1 -I .venv-proto/lib/python3.*/site-packages \
    --include_imports --descriptor_set_out="$out/generated/talkwire.binpb" \
    proto/talkwire/v1/chat.proto google/rpc/error_details.proto
