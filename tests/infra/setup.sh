#!/usr/bin/env bash
# Installs what the tests with real servers need on a bare Debian machine and builds what is built from source. Safe to
# run again: what is there stays. What can't be had is said; with CI=true it is an error, elsewhere the tests that need
# it are skipped. Each part is a function; add yours and call it at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

lacking() { # WHAT
  echo "setup: $*" >&2
  if [ -n "${CI:-}" ]; then exit 1; fi
}

install() { # PROGRAM-OR-FILE PACKAGE...
  local wanted="$1"; shift
  if command -v "$wanted" >/dev/null 2>&1 || compgen -G "$wanted" >/dev/null; then return; fi
  if [ "$(id -u)" != 0 ]; then lacking "$* must be installed (there is no $wanted), and this is not root"; return 0; fi
  if [ -z "${APT_UPDATED:-}" ]; then apt-get update -qq; APT_UPDATED=1; fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

postgresql() {
  # The tests make clusters of their own; the package need not make one.
  if [ "$(id -u)" = 0 ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
  fi
  install '/usr/lib/postgresql/*/bin/initdb' postgresql
}

object_store() {
  command -v go >/dev/null 2>&1 || { lacking "Go 1.26 or newer must be on the PATH"; return 0; }
  PYTHONPATH=tests/infra .venv/bin/python -c 'import real_s3; print("S3 server:", real_s3.program().name)'
}

broker() {
  install java openjdk-17-jre-headless
  install mvn maven
  PYTHONPATH=tests/infra .venv/bin/python -c 'import real_pulsar; print("broker:", real_pulsar.jars().name)' \
    || lacking "the broker's jars could not be had"
}

helm() {
  command -v go >/dev/null 2>&1 || { lacking "Go 1.26 or newer must be on the PATH"; return 0; }
  PYTHONPATH=tests/infra .venv/bin/python -c 'import real_helm; print("Helm:", real_helm.program().parent.name)' \
    || lacking "Helm could not be built"
}

kubernetes() {
  # Control plane for anyone; a node (containerd, kubelet) only for root, whose pods need these.
  command -v go >/dev/null 2>&1 || { lacking "Go 1.26 or newer must be on the PATH"; return 0; }
  install runc runc
  install /usr/lib/cni/bridge containernetworking-plugins
  install iptables iptables
  install ip iproute2
  install conntrack conntrack
  [ "$(id -u)" = 0 ] || lacking "the tests of pods that really run need root: nodes are made in namespaces"
  PYTHONPATH=tests/infra .venv/bin/python tests/infra/kube_programs.py || lacking "Kubernetes could not be built"
}

images() {
  # Of operator, workers and a trial's servers, for the tests that install the chart; each layer is built once.
  install buildah buildah
  install debootstrap debootstrap
  PYTHONPATH=tests/infra .venv/bin/python tests/infra/real_images.py || lacking "the images could not be built"
}

postgresql
object_store
broker
helm
kubernetes
images
