#!/bin/bash
# Builds, tests, checks and times lstmc on a machine with an NVIDIA GPU; see usage below.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
benchmarks/gpu.sh [STAGE...] [--quick] [--only NAME]... [--out DIR]

Stages, all of them if none is named, each worth running alone (what is not built is built first):
  build     installs lstmc into build/gpu-site, from where the others import it
  test      runs the tests that need a GPU
  sanitize  runs a small piece of everything by itself and under compute-sanitizer's four tools
  time      compares lstmc with the CPU's kernels and times it beside PyTorch with cuDNN

A stage that fails does not stop the next ones; the last line names those that failed, and the exit status is
then 1. A floor that is missed is reported and fails nothing.

Options of time:
  --quick      few rounds: rough numbers
  --only NAME  workloads with these words in their names, such as --only "train H64"; may be repeated
  --out DIR    where to write results and logs (default: $GPU_OUT; without, RESULTS-GPU.md and results-gpu.json
               go to benchmarks/ if everything is timed and not quickly, logs to build/gpu-logs)

Variables: PYTHON (python3); GPU_OUT; GPU_SITE (build/gpu-site); GPU_TOOLS ("memcheck racecheck initcheck
synccheck"); GPU_TOOL_LIMIT, seconds for each of these (300); GPU_LIMIT, seconds for test and for time (570).
END
}

python=${PYTHON:-python3}
site=${GPU_SITE:-build/gpu-site}
out=${GPU_OUT:-}
tools=${GPU_TOOLS:-memcheck racecheck initcheck synccheck}
limit=${GPU_LIMIT:-570}
tool_limit=${GPU_TOOL_LIMIT:-300}
stages=()
options=()
failed=()
while [ $# -gt 0 ]; do
    case $1 in
        build | test | sanitize | time) stages+=("$1") ;;
        --quick) options+=("$1") ;;
        --only | --out)
            [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
            if [ "$1" = --out ]; then out=$2; else options+=("$1" "$2"); fi
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "unknown: $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ ${#stages[@]} -gt 0 ] || stages=(build test sanitize time)
if [ -n "$out" ]; then options+=(--out "$out"); fi
logs=${out:-build/gpu-logs}
mkdir -p "$logs" "$site" || exit 1
site=$(cd "$site" && pwd)
stamp=$site/.built
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

build() {
    rm -rf "$site" build/lib.* build/bdist.*  # what has left the sources would be installed still
    "$python" -m pip install --no-build-isolation --no-deps --no-compile --quiet --target "$site" . &&
        (cd / && "$python" -c "
import sys, lstmc
assert lstmc.__file__.startswith(sys.argv[1]), f'{lstmc.__file__} is imported, not what was built'
lstmc.show_config()" "$site") && touch "$stamp"
}

built() {  # what was built is of these sources
    [ -e "$stamp" ] && [ -z "$(find src setup.py pyproject.toml -newer "$stamp" -type f \
        ! -name core.c ! -name '*.so' ! -name '*.py[co]' ! -path '*.egg-info/*' -print -quit)" ]
}

need_gpu() {  # without one, tests would be skipped and nothing would fail
    "$python" -c "from lstmc._kernels import kernels_for; kernels_for('cuda').arrays.zeros(1)"
}

run_build() { build 2>&1 | tee "$logs/gpu-build.log"; }

run_test() {
    need_gpu || return 1
    timeout -k 10 "$limit" "$python" -m pytest -q -m gpu tests 2>&1 | tee "$logs/gpu-test.log"
}

why() {  # why STATUS SECONDS
    if [ "$1" = 124 ] || [ "$1" = 137 ]; then echo "stopped after $2 s"; else echo "failed, status $1"; fi
}

run_sanitize() {
    local log=$logs/gpu-sanitize.log tool status bad=()
    local script=("$python" -m benchmarks.gpu.sanitized)
    need_gpu || return 1
    : > "$log"
    echo "--- by itself, which also compiles the kernels" | tee -a "$log"
    timeout -k 10 "$tool_limit" "${script[@]}" >> "$log" 2>&1
    status=$?
    if [ $status != 0 ]; then
        tail -n 25 "$log"
        echo "sanitize: the script by itself $(why $status "$tool_limit"); the tools are run all the same"
        bad+=("by itself")
    fi
    command -v compute-sanitizer > /dev/null || { echo "sanitize: compute-sanitizer is not on the PATH"; return 1; }
    for tool in $tools; do
        echo "--- $tool" | tee -a "$log"
        # Calls that fail are exceptions of CuPy's already; libraries make some that are meant to.
        timeout -k 10 "$tool_limit" compute-sanitizer --tool "$tool" --error-exitcode 1 --launch-timeout 0 \
            --target-processes all --report-api-errors no --print-limit 20 "${script[@]}" > "$log.$tool" 2>&1
        status=$?
        cat "$log.$tool" >> "$log"
        if [ $status = 0 ]; then
            grep -E "SUMMARY" "$log.$tool" || { echo "no summary by $tool"; status=1; }
        fi
        if [ $status != 0 ]; then
            bad+=("$tool")
            grep -E "^=========|WRONG|Error" "$log.$tool" | head -n 40
            echo "the last lines:"
            tail -n 8 "$log.$tool"
            echo "sanitize: $tool $(why $status "$tool_limit"): see $log"
        fi
        rm -f "$log.$tool"
    done
    [ ${#bad[@]} = 0 ] || { echo "sanitize: failed: ${bad[*]}"; return 1; }
}

run_time() {
    need_gpu || return 1
    timeout -k 10 "$limit" "$python" -m benchmarks.gpu "${options[@]}" 2>&1 | tee "$logs/gpu-time.log"
}

stage() {  # stage NAME: run it, say how long it took
    local start=$SECONDS word=passed
    echo "=== $1"
    "run_$1" || { word=FAILED; failed+=("$1"); }
    echo "=== $1: $word, $((SECONDS - start)) s"
}

case " ${stages[*]} " in
    *" build "*) ;;
    *) built || stages=(build "${stages[@]}") ;;
esac
for name in "${stages[@]}"; do
    stage "$name"
    if [ "$name" = build ] && [ ! -e "$stamp" ]; then
        echo "=== nothing to run: the build failed"
        break
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "=== failed: ${failed[*]}"
    exit 1
fi
echo "=== all passed, $SECONDS s"
