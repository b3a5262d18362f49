#!/usr/bin/env bash
# `make kind`: a cluster in Docker with Esper and small servers of its own (dev.enabled), to try it. Safe to run again: what
# is there stays or is brought up to date. TORCH_INDEX names PyTorch's index of CPU builds, as for `make images TORCH=cpu`.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "make kind: $*" >&2; exit 2; }

missing=()
for tool in docker kind helm kubectl; do
  command -v "$tool" >/dev/null 2>&1 || missing+=("$tool")
done
[ ${#missing[@]} = 0 ] || fail "not installed: ${missing[*]}; it needs docker, kind, helm and kubectl"
docker info >/dev/null 2>&1 || fail "docker does not answer: is it running, and may you use it?"
[ -n "${TORCH_INDEX:-}" ] || fail "say TORCH_INDEX=ADDRESS, PyTorch's index of CPU builds (docs/install.md)"

tag="$(sed -n 's/^appVersion: "\(.*\)"/\1/p' charts/esper/Chart.yaml)"
images=("localhost/esper-operator:$tag" "localhost/esper-worker:$tag")
docker build -f operator/Dockerfile -t "${images[0]}" .
docker build -f workers/Dockerfile --build-arg TORCH=cpu --build-arg TORCH_INDEX="$TORCH_INDEX" -t "${images[1]}" .

kind get clusters 2>/dev/null | grep -qx esper || kind create cluster --name esper --wait 3m
kind load docker-image --name esper "${images[@]}"

kubectl=(kubectl --context kind-esper)
"${kubectl[@]}" get namespace esper >/dev/null 2>&1 || "${kubectl[@]}" create namespace esper
"${kubectl[@]}" label --overwrite namespace esper pod-security.kubernetes.io/enforce=restricted
helm upgrade --install esper charts/esper --kube-context kind-esper --namespace esper --wait --timeout 15m \
  --set dev.enabled=true --set operator.replicas=1 --set urza.replicas=1 --set tezzeret.max=1 --set urabrask.max=1

cat <<END

Esper is ready in the cluster kind-esper. Next:
  ${kubectl[*]} -n esper apply -f crds/samples/trainingrun.yaml      # about a minute
  ${kubectl[*]} -n esper get trainingruns -w
  helm --kube-context kind-esper -n esper test esper --timeout 15m
To leave nothing:
  kind delete cluster --name esper
END
