#!/usr/bin/env bash
# What only a GPU can show, on one card of 80 GB; see docs/benchmarks.md. Ten minutes, or a part of
# it: tests, memory, speed, objectives, inference. stages, which wants Ray, only if named.
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}
lora="--size llada8b --config configs/llada8b_s1k_lora.toml"
full="--size llada8b --config configs/llada8b_s1k_full.toml"
dream="--size dream7b --config configs/dream7b_s1k_lora.toml"
qwen="--size qwen3_06b --config configs/a2d_qwen3_06b.toml"
bfloat16="--train.parallelism ddp --train.precision pure_bfloat16"

run() {
    echo "== $*"
    PYTHONUNBUFFERED=1 timeout "${LIMIT:-120}" "$python" "$@" 2>&1 | grep -v Warning | tail -n 16
}

train() { # shellcheck disable=SC2086 # several arguments in one
    run -m benchmarks.memory --device cuda $* --train.batch-size 8 --train.warmup-steps 0
}

tests() {
    run -m pytest -q tests/weft/models/test_packing_on_gpu.py tests/weft/test_objectives_on_gpu.py
}

memory() { # every micro-batch as large as it may be
    train "$lora --lengths 4096 4090"
    train "$lora --lengths 4096 4090 --train.no-packing"
    train "$full --lengths 4096 --train.micro-batch-tokens 4096 $bfloat16"
    train "$full --lengths 4096 --num-layers 10"
    train "$full --lengths 4096 --num-layers 10 --train.cpu-offload"
    train "$dream --lengths 4096 4090"
    train "$qwen --lengths 4096 4090"
    train "$qwen --lengths 4096 4090 --train.no-gradient-checkpointing"
}

speed() { # lengths of real traces
    train "$lora --steps 6"
    train "$lora --steps 6 --train.no-packing"
    train "$lora --steps 6 --train.compile"
    train "$full --steps 6 --train.micro-batch-tokens 4096 $bfloat16"
    run -m benchmarks.batching --device cuda --width 4096 --num-layers 4 --num-heads 32 \
        --vocab-size 126464
    run -m benchmarks.head --device cuda --width 4096 --chunk-rows 1024
}

objectives() {
    run -m benchmarks.step --device cuda --width 4096 --num-layers 8 --num-heads 32 \
        --vocab-size 126464 --question 200 --response 1500 --rounds 3
}

inference() {
    run -m benchmarks.inference --device cuda
}

stages() {
    LIMIT=900 run -m benchmarks.stages --device cuda --size tiny --search
    LIMIT=900 run -m benchmarks.stages --device cuda
}

for part in "${@:-tests memory speed objectives inference}"; do
    for name in $part; do $name; done
done
