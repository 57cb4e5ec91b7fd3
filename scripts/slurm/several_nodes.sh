#!/bin/bash
# A stage on the GPUs of several nodes, which share the file system; otherwise like one_node.sh.
#
#   sbatch --nodes 4 scripts/slurm/several_nodes.sh scripts/pretrain_encoder.py scripts/configs/pretrain_encoder_base.yaml \
#       --data_dir <folder> --tokenizer runs/tokenizer_base --output_dir runs/encoder_base
#
# `per_device_train_batch_size` is per GPU: a run that continues on another number of them needs another one, for the same batch.
#SBATCH --job-name=cmssl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=24
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

source scripts/slurm/requeue.sh

MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_ADDRESS
# One launcher per node, which knows its rank only there. If one ends, so do all.
run_until_done srun --kill-on-bad-exit=1 bash -c '
    exec accelerate launch -q \
        --config_file scripts/accelerate/two_nodes.yaml \
        --num_machines "$SLURM_NNODES" \
        --num_processes "$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-4}))" \
        --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$MAIN_ADDRESS" \
        --main_process_port "$((20000 + SLURM_JOB_ID % 20000))" \
        "$@"' launcher "$@"
