#!/usr/bin/env bash
# Installs KubeRay @VERSION@ with the values beside this file, or upgrades to them; running it again changes nothing.
# It refuses where another operator looks at the same namespaces, as Kubeflow's does, before it changes anything.
#
#   bash install.sh                     the cluster of the current context of kubectl
#   CONTEXT=prod bash install.sh        another one
#   NAMESPACE=default bash install.sh   where the chart is installed already, if not in kuberay-system
set -euo pipefail
printf -v self '%q' "$0"
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

version="@VERSION@"
watch="@WATCH@" # namespaces, with commas between; empty: all
namespace="${NAMESPACE:-kuberay-system}"
for program in kubectl helm; do
  command -v "$program" >/dev/null || { echo "error: \`$program\` is not installed here" >&2; exit 1; }
done
context="${CONTEXT:-$(kubectl config current-context)}"
echo "context $context, namespace $namespace, KubeRay $version" >&2
k() { kubectl --context "$context" "$@"; }
h() { helm --kube-context "$context" "$@"; }

overlap() { # Whether two lists of namespaces share one; an empty list is all of them.
  local one two
  if [[ -z "$1" || -z "$2" ]]; then return 0; fi
  for one in ${1//,/ }; do
    for two in ${2//,/ }; do
      if [[ "$one" == "$two" ]]; then return 0; fi
    done
  done
  return 1
}

# One line a Deployment: namespace, name, then image and arguments of each container.
deployments="$(k get deployments --all-namespaces --output jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{range .spec.template.spec.containers[*]}{" "}{.image}{" "}{.args}{end}{"\n"}{end}')"
refused=0
while IFS= read -r line; do
  read -r place name rest <<<"$line"
  if [[ "$name $rest" != *kuberay*operator* || "$place/$name" == "$namespace/kuberay-operator" ]]; then continue; fi
  watched="$(sed -nE 's/.*-watch-namespace(=|",")([^"]*)".*/\2/p' <<<"$line")"
  if overlap "$watch" "$watched"; then
    refused=1
    cat >&2 <<END
error: $place/$name looks at ${watched:-all namespaces}, this one would look at ${watch:-all namespaces}: two operators undo each other's work
hint: one of these, then \`eagleray doctor run.yaml\`:
  - it is this chart in another namespace: NAMESPACE=$place bash $self
  - keep that one alone, and give it these settings, in its own manifests where somebody applies them again:
      kubectl --context $context --namespace $place set env deployment/$name @SETTINGS@
      kubectl --context $context --namespace $place set resources deployment/$name --limits=cpu=1,memory=@MEMORY@ --requests=cpu=250m,memory=@MEMORY@
  - keep both, apart: give that one \`--watch-namespace=NAMESPACE,NAMESPACE\` among its arguments, and make this one anew
    with \`eagleray render --operator --watch NAMESPACE\`, which has others
  - keep this one alone: take that one out of its manifests and delete its Deployment, and nothing else; its definitions stay
END
  fi
done <<<"$deployments"
if ((refused)); then exit 1; fi

for one in ${watch//,/ }; do
  k get namespace "$one" --output name >/dev/null || { echo "hint: kubectl --context $context create namespace $one" >&2; exit 1; }
done

# Older definitions would cut fields out of objects that are there.
newer="$(k get crd rayclusters.ray.io --ignore-not-found --output jsonpath='{.spec.versions[?(@.name=="v1")].schema.openAPIV3Schema.properties.spec.properties.networkPolicy.type}')"
if [[ "$version" == 1.6.* && -n "$newer" ]]; then
  echo "error: the definitions in the cluster are of KubeRay 1.7 or later, this is $version" >&2
  echo "hint: eagleray render --operator --kuberay 1.7 -o DIR, and \`cluster.eks.kuberay: \"1.7\"\` in specs" >&2
  exit 1
fi

h repo add --force-update kuberay https://ray-project.github.io/kuberay-helm/
h repo update kuberay

# Helm installs definitions once and never upgrades them; server-side, as they are too large for an annotation.
definitions="$(h show crds kuberay/kuberay-operator --version "$version")"
k apply --server-side --force-conflicts --field-manager eagleray --filename - <<<"$definitions"
k wait --for condition=Established --timeout 60s crd/rayclusters.ray.io crd/rayjobs.ray.io

h upgrade --install kuberay-operator kuberay/kuberay-operator --version "$version" --skip-crds \
  --namespace "$namespace" --create-namespace --values values.yaml --wait --timeout 10m
k --namespace "$namespace" rollout status deployment/kuberay-operator --timeout 5m
echo "done; \`eagleray doctor run.yaml\` looks at the rest" >&2
