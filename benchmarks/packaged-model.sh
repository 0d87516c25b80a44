#!/bin/sh
# Trains the packaged models on 2 CPU cores in about two hours, and exports them in fp32 and in int8.
#
#     benchmarks/packaged-model.sh FLOWERS102 LARGE FLOWERS128 BEFORE OUT
#
# The first three are as for benchmarks/training_photos.py. BEFORE: the model that was in the package before, from which
# training goes on (git show 2c51632:infer/models/flowers.onnx). OUT: a new folder.
#
# 2-projected was stopped after its second epoch, from which 3-colors goes on. The sums of other processors differ in their
# last bits, so other machines get other weights.
set -eu
out=$5
python -m benchmarks.training_photos "$1" "$2" "$3" "$out/photos"
train() {
    run=$1; shift
    cgan-train "$out/photos/train" --out "$out/$run" --discriminator projected --features efficientnet-lite2 --best-by fid \
        --flip --crop 0.6 --exposure 1.4 --sharpness 1.5 --ema 0.999 --batch-size 16 --test-fraction 0.04 \
        --precision fp32 "$@"
}
train 1-l1 --init "$4" --input-blur 0 --color-weight 1 --epochs 3 --warmup-epochs 3
train 2-projected --init "$out/1-l1" --l1-weight 12 --color-weight 1.5 --epochs 4 --decay-epochs 3 --save-every 1
train 3-colors --init "$out/2-projected/checkpoints/epoch-0002.safetensors" --l1-weight 5 --color-weight 2 --epochs 2 --decay-epochs 1
cgan-export "$out/3-colors" --out "$out/models"
cgan-export "$out/3-colors" --out "$out/models" --precision int8 --calibration "$out/photos/train"
