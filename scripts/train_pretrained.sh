#!/usr/bin/env bash
# Trains the models that come with the package and puts them into cmssl_hf/pretrained/. Give the folders of four releases:
#
#     CHALLENGE2015=<folder> BIDMC=<folder> CHALLENGE2017=<folder> PTB_XL=<folder> scripts/train_pretrained.sh [runs folder]
#
# What is interrupted continues when the command is given again; what is finished is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
runs="${1:-runs/pretrained}"
configs=scripts/configs/pretrained
python="${PYTHON:-python}"

"$python" scripts/pretrain_tokenizer.py "$configs/tokenizer.yaml" --data_dir "$CHALLENGE2015" --output_dir "$runs/tokenizer"
for channel in ppg ecg; do
    "$python" scripts/pretrain_encoder.py "$configs/encoder.yaml" --data_dir "$CHALLENGE2015" --tokenizer "$runs/tokenizer" \
        --channel "$channel" --output_dir "$runs/$channel-encoder"
done
# The rhythm is read by convolutions alone; this encoder does not come with the package.
"$python" scripts/pretrain_encoder.py "$configs/encoder.yaml" --data_dir "$CHALLENGE2015" --tokenizer "$runs/tokenizer" --channel ecg \
    --config_overrides patch_size=50,patch_embedding=residual,position_embedding=conv,hidden_size=128,num_hidden_layers=0 \
    --output_dir "$runs/ecg-encoder-residual"
# Heart rate from the people of two releases: a folder of records may lie anywhere.
mkdir -p "$runs/recordings"
ln -sfn "$(realpath "$CHALLENGE2015")" "$runs/recordings/challenge-2015"
ln -sfn "$(realpath "$BIDMC")" "$runs/recordings/bidmc"
"$python" scripts/finetune.py "$configs/heart_rate.yaml" --data_dir "$runs/recordings" --output_dir "$runs/heart-rate"
"$python" scripts/finetune.py "$configs/respiration.yaml" --data_dir "$BIDMC" --output_dir "$runs/respiration"
"$python" scripts/finetune.py "$configs/rhythm.yaml" --data_dir "$CHALLENGE2017" \
    --model_name_or_path "$runs/ecg-encoder-residual" --output_dir "$runs/rhythm"
"$python" scripts/finetune.py "$configs/ecg_diagnosis.yaml" --data_dir "$PTB_XL" --model_name_or_path "$runs/ecg-encoder" \
    --output_dir "$runs/ecg-diagnosis"
# A folder of WFDB records does not say itself what it holds.
challenge="The recordings are those of the PhysioNet/CinC Challenge 2015 (https://physionet.org/content/challenge-2015/1.0.0/, ODC-By 1.0)."
for name in tokenizer ppg-encoder ecg-encoder; do
    "$python" scripts/pack_pretrained.py --run "$runs/$name" --name "$name" --data "$challenge"
done
"$python" scripts/pack_pretrained.py --run "$runs/heart-rate" --name heart-rate \
    --data "${challenge%.} and of BIDMC (https://physionet.org/content/bidmc/1.0.0/, ODC-By 1.0)."
for name in rhythm ecg-diagnosis; do
    "$python" scripts/pack_pretrained.py --run "$runs/$name" --name "$name" \
        --data "${challenge/The recordings/The recordings of the encoder and the tokenizer}"
done
"$python" scripts/pack_pretrained.py --run "$runs/respiration" --name respiration
