#!/bin/sh
# Sets up what tests/engines need: SLURM and munge from Debian (as root), Ray, an S3 server and its client from PyPI.
# The daemons themselves are started by the tests, in folders and on ports of their own.
#   tests/engines/set_up.sh PYTHON
set -eu
python=$1

if ! command -v slurmctld >/dev/null && ! [ -x /usr/sbin/slurmctld ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "SLURM is missing: install Debian's packages slurm-wlm and munge; without them its tests are skipped" >&2
    else
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
    fi
fi
"$python" -m pip install --quiet submitit ray 'moto[server,s3]' s3fs
