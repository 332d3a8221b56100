#!/bin/bash
# Two machines of four GPUs. Submit from the repository:
#   sbatch experiments/slurm/multi_node.sh --data.init_args.manifest data/mine --run_dir runs/full/mine-0
# Other numbers: change --nodes and --ntasks-per-node here, num_nodes and devices in experiments/trainer/slurm.yaml.
#SBATCH --job-name=rome
#SBATCH --nodes=2
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
    --config "${ROME_TRAINER:-experiments/trainer/slurm.yaml}" \
    --ckpt_path auto \
    "$@"
