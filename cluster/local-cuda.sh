#!/bin/sh
# A scheduler and a worker for every GPU of this machine (CUDA_VISIBLE_DEVICES chooses among them).
#   cluster/local-cuda.sh           then: --cluster scheduler.json, or connect("scheduler.json")
set -eu
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
dask scheduler --host 127.0.0.1 --scheduler-file scheduler.json &
scheduler=$!
trap 'kill $scheduler' EXIT INT TERM
until [ -s scheduler.json ]; do sleep 0.2; done
dask cuda worker --scheduler-file scheduler.json --nthreads 1 --resources GPU=1
