#!/usr/bin/env bash
# All that only a GPU can show, on one card of 80 GB; about eight minutes. See docs/benchmarks.md.
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}

run() {
    echo "== $*"
    PYTHONUNBUFFERED=1 timeout "${LIMIT:-120}" "$python" "$@" 2>&1 | grep -v Warning | tail -n 16
}

memory() {
    run -m benchmarks.memory --device cuda "$@" --train.batch-size 8 --train.warmup-steps 0
}

run -m pytest -q tests/weft/models/test_packing_on_gpu.py
memory --size llada8b --config configs/llada8b_s1k_lora.toml
memory --size llada8b --config configs/llada8b_s1k_lora.toml --train.no-packing
memory --size llada8b --config configs/llada8b_s1k_full.toml --train.parallelism ddp \
    --train.precision pure_bfloat16 --train.micro-batch-tokens 4096
memory --size dream7b --config configs/dream7b_s1k_lora.toml --train.no-packing
memory --size qwen3_06b --config configs/a2d_qwen3_06b.toml --train.no-packing
memory --size qwen3_06b --config configs/a2d_qwen3_06b.toml --train.no-packing \
    --train.no-gradient-checkpointing
memory --size llada8b --num-layers 12 --config configs/llada8b_s1k_full.toml
memory --size llada8b --num-layers 12 --config configs/llada8b_s1k_full.toml --train.cpu-offload
run -m benchmarks.step --device cuda --width 4096 --num-layers 8 --num-heads 32 \
    --vocab-size 126464 --question 200 --response 1500 --rounds 5
run -m benchmarks.batching --device cuda --width 4096 --num-layers 4 --num-heads 32 \
    --vocab-size 126464
run -m benchmarks.head --device cuda --width 4096 --chunk-rows 1024
memory --size llada8b --config configs/llada8b_s1k_lora.toml --train.compile
