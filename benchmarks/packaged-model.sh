#!/bin/sh
# How the model in the package was trained, on 2 CPU cores in under two hours: from 64 to 128 pixels with L1 alone,
# then with the discriminator.
#
#     benchmarks/packaged-model.sh PHOTOS OUT
#
# PHOTOS: 3,890 photos of flowers at 128 x 128 (infer/models/MODEL_CARD.md). OUT: a new folder.
#
# Two stages were begun for longer than is written here: 1-small was stopped after 27 of its 30 epochs, since its best
# checkpoint is the 26th, and 4-large after the first 12 L1 epochs of a run that was to go on with the discriminator.
# torch's bf16 sums differ from machine to machine, so other machines get other weights.
set -eu
photos=$1 out=$2
train() {
    run=$1; shift
    cgan-train "$photos" --out "$out/$run" --width 16 --color-space ycbcr --loss-space rgb --ema 0.999 --flip \
        --batch-size 16 --test-fraction 0.1 --no-fid --precision bf16 "$@"
}
mkdir -p "$out"
train 1-small --size 64 --discriminator none --sharpness 2 --epochs 30 --decay-epochs 8
train 2-crops --size 64 --discriminator none --sharpness 2 --crop 0.5 --color-weight 2 --epochs 20 --decay-epochs 6 \
    --init "$out/1-small/checkpoints/best.safetensors"
train 3-more --size 64 --discriminator none --sharpness 2 --crop 0.5 --color-weight 2 --epochs 24 --decay-epochs 6 \
    --init "$out/2-crops"
train 4-large --size 128 --discriminator none --sharpness 3 --crop 0.5 --color-weight 2 --epochs 12 --init "$out/3-more"
train 5-gan --size 128 --discriminator patch --gan-loss hinge --spectral-norm --discriminator-width 8 --l1-weight 100 \
    --sharpness 3 --crop 0.5 --color-weight 2 --epochs 10 --decay-epochs 5 --save-every 1 --init "$out/4-large"
cgan-export "$out/5-gan/checkpoints/best.safetensors" --out "$out/models"
