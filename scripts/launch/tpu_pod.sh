#!/bin/bash
# Train on a slice of Cloud TPUs: the same command on each of its hosts.
#
#   TPU=my-v5e-64 ZONE=us-west4-a bash scripts/launch/tpu_pod.sh configs/stdlib_lm.yaml --run gs-mount/stdlib_lm
#
# Needs: gcloud, a slice that has been made (`gcloud compute tpus tpu-vm create`), and a folder that all hosts share,
# such as a mounted bucket, for the run. To change: TPU, ZONE and the arguments.
#
# Which host is which is known to JAX, from the slice's metadata. On GKE, use jobset.yaml with the TPU's node selectors
# and --dist tpu.

set -eu
: "${TPU:?name of the slice}" "${ZONE:?its zone}"

on_every_host() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$1"
}

gcloud compute tpus tpu-vm scp --recurse --zone "$ZONE" --worker=all . "$TPU:jaxprop"
on_every_host "cd jaxprop && pip install --quiet '.[tpu]'"
on_every_host "cd jaxprop && jaxprop train $(printf '%q ' "$@") --dist tpu"
