#!/bin/bash
# Several machines, two of four GPUs by default. Submit from any folder that all of them see:
#   sbatch "$(rome experiments copy slurm/multi_node.sh)" --data.init_args.manifest data/mine --run-dir runs/full/mine-0
# Arguments, environment and time limit: as in single_node.sh.
# Other numbers: sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 ...
#SBATCH --job-name=rome
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=9
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=rome-%j.log

if [ -n "${ROME_ENV:-}" ]; then
    source "$ROME_ENV" || exit 1
fi
# As in single_node.sh.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
srun rome fit \
    --config "${ROME_BASE:-full/base}" \
    --config "${ROME_TRAINER:-trainer/slurm}" \
    --trainer.devices "${SLURM_NTASKS_PER_NODE:-4}" \
    --trainer.num_nodes "${SLURM_NNODES:-2}" \
    --ckpt-path auto \
    "$@"
