#!/bin/sh
# A scheduler and a worker process for every core of this machine, to share between several runs and notebooks.
#   cluster/local.sh [WORKERS]      then: --cluster scheduler.json, or connect("scheduler.json")
set -eu
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
workers=${1:-$(nproc)}
dask scheduler --host 127.0.0.1 --scheduler-file scheduler.json &
scheduler=$!
trap 'kill $scheduler' EXIT INT TERM
until [ -s scheduler.json ]; do sleep 0.2; done
dask worker --scheduler-file scheduler.json --nworkers "$workers" --nthreads 1
