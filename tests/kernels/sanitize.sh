#!/usr/bin/env bash
# Builds the C++ kernels with AddressSanitizer and UndefinedBehaviorSanitizer, then with ThreadSanitizer, and runs a
# driver of them. Needs g++ or clang++; MLX and nanobind play no part. Takes a minute or two.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernels=$(cd "$here/../../helix_mlx/kernels/cpu" && pwd)
compiler=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $(uname -m) in
  x86_64 | amd64)
    avx2="-mavx2 -mfma -mf16c"
    forms=("portable" "avx2 $avx2" "avx512 $avx2 -mavx512f -mavx512bw -mavx512dq -mavx512vl")
    ;;
  aarch64 | arm64) forms=("portable" "neon") ;;
  *) forms=("portable") ;;
esac

# Guards around every array of the kernels' own would take minutes to compile; heap and bounds are checked there too.
if "$compiler" --version | grep -q clang; then light="-mllvm -asan-stack=0"; else light="--param asan-stack=0"; fi

build() { # the name of the result, then the sanitizers' flags
  local name=$1 objects=() waits=() form source object
  shift
  local flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -w -Wno-psabi -I"$kernels" "$@")
  compile() { # source, object, flags
    "$compiler" "${flags[@]}" "${@:3}" -c "$1" -o "$2" &
    waits+=($!)
    objects+=("$2")
  }
  for source in "$kernels"/*_kernel.cpp; do
    for form in "${forms[@]}"; do
      read -ra words <<<"$form $light"
      compile "$source" "$work/$name-$(basename "$source" .cpp)-${words[0]}.o" "-DHELIX_ISA=${words[0]}" "${words[@]:1}"
    done
  done
  for source in "$kernels"/{isa,pool,qmm,attention_job,embedding_job,rms_norm_job,rope_job}.cpp "$here"/sanitize_*.cpp; do
    compile "$source" "$work/$name-$(basename "$source" .cpp).o"
  done
  for job in "${waits[@]}"; do wait "$job"; done
  "$compiler" "${flags[@]}" "${objects[@]}" -pthread -o "$work/$name"
}

echo "address, undefined"
build address -fsanitize=address,bounds,shift,signed-integer-overflow,integer-divide-by-zero -fno-sanitize-recover=all
"$work/address"
echo "thread"
build thread -fsanitize=thread
"$work/thread" no-fork
