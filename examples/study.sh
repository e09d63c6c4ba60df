#!/usr/bin/env bash
# The study on real images: does pretraining on unlabelled chest X-rays beat ImageNet's weights?
#
#   bash examples/study.sh IMAGES OUT          IMAGES: the folder ../shared/realdata; OUT: any folder
#
# Builds six labelled sets and the unlabelled pool, pretrains on the pool without the labelled sets'
# images and patients, and compares all encoders with ImageNet's by linear probe, nearest neighbours
# and fine-tuning. Killed? The same command goes on. docs/results/study.md has what it found.
#
# SEEDS="0 1" OBJECTIVES=moco STEPS=480 bash examples/study.sh … makes a part of it; what is
# asked for later is added to what is there.
set -euo pipefail
images=$(realpath "${1:?IMAGES is missing: bash examples/study.sh IMAGES OUT}")
out=$(realpath -m "${2:?OUT is missing: bash examples/study.sh IMAGES OUT}")
cd "$(dirname "$0")/.."
seeds=${SEEDS:-0 1 2}                       # of moco and simclr; byol has one
objectives=${OBJECTIVES:-moco simclr byol}  # continued from ImageNet
steps=${STEPS:-480}

data=$out/data runs=$out/runs
imagenet=torchvision_v1:$images/weights/resnet50_imagenet_v1_fp16.npz
labelled=siim_covid19,nih14_hi,effusion,jsrt_nodule,nih_chestxray14,pediatric_pneumonia

seeds_of() { [ "$1" = byol ] && echo 0 || echo "$seeds"; }
minutes() { # OBJECTIVE
  case $1 in moco) rate=26 ;; byol) rate=12 ;; *) rate=16 ;; esac  # images/s
  echo $((steps * 64 / rate / 60))
}
total=61  # what does not depend on how many pretrainings there are
for objective in $objectives; do
  for _ in $(seeds_of "$objective"); do total=$((total + $(minutes "$objective") + 10)); done
done
cat <<EOF
On two CPU cores without other work (estimates; docs/results/study.md has what was measured):
  build seven datasets                  1 minute
  SimCLR and BYOL from scratch, small   10 minutes
  continued from ImageNet, $steps steps    $(minutes moco) minutes a seed of moco, $(minutes simclr) a seed of simclr, $(minutes byol) of byol
  features of a ResNet-50               8 to 13 minutes an encoder (9,843 images at 224 px)
  probes, fine-tuning, reports          40 minutes
  in all                                $((total / 60)) h $((total % 60)) min
EOF

build() { # NAME BUILDER FOLDER OPTIONS…
  [ -d "$data/$1" ] || python -m data_builders.build "$2" --manual_dir="$images/$3" --data_dir="$data" "${@:4}"
}
table() { # FOLDER LABELS [NAME]
  build "${3:-$1}" image_folder "$1" --name="${3:-$1}" --labels_csv="$images/$1/labels.csv" --label_columns="$2"
}
build pediatric_pneumonia pediatric_pneumonia chest_xray
build nih_chestxray14 nih_chestxray14 nih_chestxray14
build pool image_folder unlabelled_pool --name=pool
table effusion effusion
table siim_covid19 negative,typical,indeterminate,atypical
table jsrt nodule jsrt_nodule
table nih14_hi Atelectasis,Cardiomegaly,Consolidation,Edema,Effusion,Emphysema,Fibrosis,Hernia,Infiltration,Mass,Nodule,Pleural_Thickening,Pneumonia,Pneumothorax

pretrain() { # WORKDIR CONFIG OPTIONS…
  python run.py --config="configs/$2" --workdir="$runs/$1" --config.data.name=pool \
    --config.data.dir="$data" --config.data.exclude="$labelled" "${@:3}"
}
pretrain simclr_scratch simclr.py:cpu
pretrain byol_scratch byol.py:cpu
encoders=random,imagenet=$imagenet,simclr_scratch=$runs/simclr_scratch,byol_scratch=$runs/byol_scratch
first=
for objective in $objectives; do
  joined=
  for seed in $(seeds_of "$objective"); do
    run=${objective}_$seed
    pretrain "$run" "$objective.py:adapt" --config.init="$imagenet" --config.seed="$seed" \
      --config.num_train_steps="$steps"
    joined=$joined+$runs/$run
    first=${first:-$run}  # of the first objective, to fine-tune
  done
  encoders=$encoders,$objective=${joined#+}
done

compare() { # WORKDIR OPTIONS…
  python run.py --config=configs/benchmark.py --workdir="$runs/$1" --config.reference=imagenet \
    --config.data.dir="$data" "${@:2}"
}
# Classes of siim_covid19 exclude each other; jsrt's 247 images are too few to split.
compare linear --config.encoders="$encoders" --config.protocols=linear,knn \
  --config.datasets=pediatric_pneumonia,nih_chestxray14:any_finding,nih14_hi,effusion,siim_covid19@exclusive=True,jsrt_nodule@folds=5
# Two rates, 96 px and one seed are what two cores allow.
compare finetune --config.encoders="imagenet=$imagenet,${first%_*}=$runs/$first" \
  --config.protocols=finetune --config.datasets=nih_chestxray14:any_finding,effusion \
  --config.fractions='(1.0,)' --config.seeds='(0,)' --config.transfer.read_size=96 \
  --config.transfer.finetune.dtype=float32 --config.transfer.finetune.batch_size=32 \
  --config.transfer.finetune.learning_rates='(1e-4,3e-4)' --config.transfer.finetune.epochs=5.0 \
  --config.transfer.finetune.min_steps=60 --config.transfer.finetune.max_steps=120 \
  --config.transfer.finetune.evaluations=4 --config.transfer.pictures.draw=False

echo "Read $runs/linear/report.html and $runs/finetune/report.html"
