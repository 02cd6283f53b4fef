#!/bin/sh
# A scheduler on the first host and a worker process for every core of every host, over plain ssh. Each host has cryoflow
# installed, takes a login by key and sees the same files.  `--cluster ssh:host1,host2` does the like for one run.
#   cluster/ssh.sh host1 host2 ...  then: --cluster tcp://host1:8786
set -eu
[ $# -gt 0 ] || { echo "usage: $0 HOST..." >&2; exit 2; }
first=$1
one="env OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1"
pids=
trap 'kill $pids 2>/dev/null' EXIT
trap 'exit 130' INT TERM
for host in "$@"; do
    ssh -tt "$host" "$one dask worker tcp://$first:8786 --nworkers=-1 --nthreads 1 --death-timeout 60" </dev/null &
    pids="$pids $!"
done
ssh -tt "$first" "$one dask scheduler --port 8786" </dev/null &
pids="$pids $!"
wait $!  # a signal ends this, and with it the logins and what they run
