#!/bin/sh
# Trains the packaged models, on 2 CPU cores in about four hours: L1 alone at 64 and 128 pixels, back to 64, and then with
# the discriminator; exports them in fp32 and in int8.
#
#     benchmarks/packaged-model.sh PHOTOS OUT
#
# PHOTOS: 3,890 photos of flowers at 128 x 128 (infer/models/MODEL_CARD.md). OUT: a new folder.
#
# Stage 1-small was begun for 30 epochs and stopped after 27, since its best checkpoint is the 26th. Stages 1 to 7 ran on
# another machine than the later ones, which continue from the file that was in the package before. Stages 9 and 10, at 128
# pixels, led to a model that was in the package for a while and are not repeated here; their epochs are in
# benchmarks/results/flowers-training.jsonl. 11-gan was begun for 40 epochs and stopped after 20,
# 12-colors for 7 and stopped after 6. benchmarks/discriminators.sh compares others like them. torch's bf16 sums
# differ from machine to machine, so other machines get other weights.
set -eu
photos=$1 out=$2
train() {
    run=$1; shift
    cgan-train "$photos" --out "$out/$run" --width 16 --color-space ycbcr --loss-space rgb --flip \
        --batch-size 16 --test-fraction 0.1 --no-fid --precision bf16 "$@"
}
mkdir -p "$out"
train 1-small --size 64 --discriminator none --sharpness 2 --ema 0.999 --epochs 30 --decay-epochs 8
train 2-crops --size 64 --discriminator none --sharpness 2 --crop 0.5 --color-weight 2 --ema 0.999 \
    --epochs 20 --decay-epochs 6 --init "$out/1-small/checkpoints/best.safetensors"
train 3-more --size 64 --discriminator none --sharpness 2 --crop 0.5 --color-weight 2 --ema 0.999 \
    --epochs 24 --decay-epochs 6 --init "$out/2-crops"
train 4-long --size 64 --discriminator none --sharpness 3 --crop 0.4 --color-weight 1.5 --ema 0.9997 \
    --epochs 44 --decay-epochs 10 --init "$out/3-more"
train 5-large --size 128 --discriminator none --sharpness 3 --crop 0.4 --color-weight 1.5 --ema 0.9995 \
    --epochs 14 --decay-epochs 4 --init "$out/4-long"
train 6-gan --size 128 --discriminator patch --gan-loss hinge --spectral-norm --discriminator-width 8 --l1-weight 512 \
    --sharpness 3 --crop 0.4 --color-weight 1.5 --ema 0.9995 --epochs 17 --decay-epochs 6 --save-every 1 \
    --init "$out/5-large"
train 7-finish --size 128 --discriminator patch --gan-loss hinge --spectral-norm --discriminator-width 8 --l1-weight 512 \
    --sharpness 3 --crop 0.6 --color-weight 1.3 --ema 0.9995 --lr 0.0003 --epochs 14 --decay-epochs 12 --save-every 1 \
    --init "$out/6-gan"
cgan-export "$out/7-finish" --out "$out/before"
train 8-exposed --size 64 --discriminator none --sharpness 3 --crop 0.4 --color-weight 1.4 --exposure 1.5 --ema 0.9997 \
    --epochs 50 --decay-epochs 12 --save-every 10 --init "$out"/before/*.onnx
gan() {
    train "$@" --discriminator patch --discriminator-norm none --spectral-norm --gan-loss hinge --discriminator-width 8 \
        --size 64 --crop 0.5 --color-weight 1.6 --exposure 1.4 --ema 0.9995 --lr 0.0004
}
gan 11-gan --l1-weight 192 --sharpness 3 --epochs 20 --init "$out/8-exposed"
gan 12-colors --l1-weight 132 --sharpness 2 --input-blur 1 --epochs 6 --init "$out/11-gan"
best="$out/12-colors"
cgan-export "$best" --out "$out/models"
cgan-export "$best" --out "$out/models" --precision int8 --calibration "$photos"
