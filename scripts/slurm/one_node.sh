#!/bin/bash
# A stage on the GPUs of one node; it goes back to the queue when its time is over or a more urgent job comes, and continues.
#
#   sbatch scripts/slurm/one_node.sh scripts/pretrain_tokenizer.py scripts/configs/pretrain_tokenizer_base.yaml \
#       --data_dir <folder> --output_dir runs/tokenizer_base
#
# Submit it from the root of the checkout; partition and account are those of your cluster (`sbatch -p ... -A ...`).
#SBATCH --job-name=cmssl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=24
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# To this shell, two minutes before the end: a checkpoint takes seconds.
#SBATCH --signal=B:TERM@120

source scripts/slurm/requeue.sh

run_until_done srun accelerate launch -q \
    --config_file scripts/accelerate/gpu_4_ddp.yaml \
    --num_processes "${SLURM_GPUS_ON_NODE:-4}" \
    "$@"
