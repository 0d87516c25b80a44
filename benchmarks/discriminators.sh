#!/bin/sh
# Effect of a discriminator, its batch norm and the L1 weight on the colours of stage 8-exposed of the packaged model:
# trains five epochs of each, on 2 CPU cores in about half an hour, and measures all on the held-out photos.
#
#     benchmarks/discriminators.sh PHOTOS STAGE OUT
#
# PHOTOS: as for benchmarks/packaged-model.sh. STAGE: the folder of its run 8-exposed. OUT: a new folder.
set -eu
photos=$1 stage=$2 out=$3
mkdir -p "$out/models"
try() {
    name=$1; shift
    cgan-train "$photos" --out "$out/$name" --width 16 --color-space ycbcr --loss-space rgb --flip --batch-size 16 \
        --test-fraction 0.1 --no-fid --precision bf16 --size 64 --sharpness 2 --crop 0.5 --exposure 1.4 --ema 0.999 \
        --lr 0.0004 --epochs 5 --decay-epochs 4 --init "$stage" "$@"
    cgan-export "$out/$name/checkpoints/last.safetensors" --out "$out/$name/onnx"
    mv "$out/$name"/onnx/*.onnx "$out/models/$name.onnx"
    mv "$out/$name"/onnx/*.json "$out/models/$name.onnx.json"
}
gan="--discriminator patch --gan-loss hinge --spectral-norm --discriminator-width 8"
alone="$gan --discriminator-norm none"
try l1 --discriminator none
try l1-color-1.8 --discriminator none --color-weight 1.8
try l1-color-2.6 --discriminator none --color-weight 2.6
# shellcheck disable=SC2086
{
    try batch-norm-64-color-1.8 $gan --l1-weight 64 --color-weight 1.8
    try no-norm-128 $alone --l1-weight 128
    try no-norm-128-color-1 $alone --l1-weight 128 --color-weight 1
    try no-norm-256-color-1 $alone --l1-weight 256 --color-weight 1
}
for model in "$out"/models/*.onnx; do
    set -- "$@" --model "$model"
done
shift 3
PYTHONPATH=$(dirname "$0")/.. python -m benchmarks quality "$photos" --split "$stage/split.json" "$@" \
    --json "$out/quality.json"
