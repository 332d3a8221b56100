#!/bin/bash
# One machine, all GPUs that the job gets. Submit from any folder:
#   sbatch "$(rome experiments copy slurm/single_node.sh)" --data.init_args.manifest data/mine --run-dir runs/full/mine-0
# Arguments are those of `rome fit`. Two minutes before the time limit the run saves itself and is queued again;
# the same command then goes on from its newest checkpoint, as it does when the job is submitted once more.
# Two GPUs:     sbatch --gpus-per-node=2 --ntasks-per-node=2 ...
# Environment:  ROME_ENV=$HOME/rome/bin/activate sbatch ...; without it the job has that of the shell it is submitted from.
# Other recipe: ROME_BASE=linear/base sbatch ...
#SBATCH --job-name=rome
#SBATCH --nodes=1
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
# Since SLURM 22.05 srun takes this number from here only; without it each process has one core.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
# SLURM sets the number of devices to what --ntasks-per-node asked for, here or on the command line of sbatch.
srun rome fit \
    --config "${ROME_BASE:-full/base}" \
    --config "${ROME_TRAINER:-trainer/ddp}" \
    --trainer.devices "${SLURM_NTASKS_PER_NODE:-4}" \
    --ckpt-path auto \
    "$@"
