#!/bin/bash
# One machine, all of its GPUs. Submit from the repository:
#   sbatch experiments/slurm/single_node.sh --data.init_args.manifest data/mine --run_dir runs/full/mine-0
# Arguments are those of `rome fit`. Two minutes before the time limit the run saves itself and is queued again;
# the same command then goes on from its newest checkpoint, as it does when the job is submitted once more.
#SBATCH --job-name=rome
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=9
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log

srun rome fit \
    --config "${ROME_BASE:-experiments/full/base.yaml}" \
    --config "${ROME_TRAINER:-experiments/trainer/ddp.yaml}" \
    --ckpt_path auto \
    "$@"
