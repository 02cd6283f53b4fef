#!/bin/sh
# A scheduler on the first host and a worker process for every core of every host; each has cryoflow installed and takes
# a login by key.  `--client ssh:host1,host2` does the same for the time of one run.
#   cluster/ssh.sh host1 host2 ...  then: --client tcp://host1:8786
set -eu
[ $# -gt 0 ] || { echo "usage: $0 HOST..." >&2; exit 2; }
exec dask ssh --nthreads 1 --nworkers -1 --scheduler "$1" "$@"
