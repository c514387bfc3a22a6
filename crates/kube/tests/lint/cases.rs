//! For each rule the changes to the good manifests that make it speak, and those under which it stays silent.
//!
//! The good manifests hold a subject for nearly every rule, so that `good` is empty but where silence under
//! a change is the point.

/// A rule with a failing and a passing manifest, as changes to `good.yaml`.
pub(crate) struct Case {
    pub(crate) rule: &'static str,
    /// What makes the rule speak.
    pub(crate) bad: &'static [(&'static str, &'static str)],
    /// What it must stay silent under.
    pub(crate) good: &'static [(&'static str, &'static str)],
    /// Other rules that speak of the same fault.
    pub(crate) also: &'static [&'static str],
}

type Changes = &'static [(&'static str, &'static str)];

const fn case(rule: &'static str, bad: Changes) -> Case {
    Case { rule, bad, good: &[], also: &[] }
}

impl Case {
    const fn but(self, good: Changes) -> Self {
        Self { good, ..self }
    }

    const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }
}

pub(crate) const QUEUE: &str = "kueue.x-k8s.io/queue-name: research, kueue.x-k8s.io/priority-class: high, ";
const SHUTDOWN: &str = "  shutdownAfterJobFinishes: true\n";
const TTL: &str = "  ttlSecondsAfterFinished: 60\n";
const RANGE: (&str, &str) = ("minReplicas: 2", "minReplicas: 1");
const SPOT_TEMPLATE: &str = "nodeSelector: {karpenter.sh/nodepool: p5-spot-a}";
const HEAD_LIMITS: &str = "limits: {cpu: \"16\", memory: 64Gi}";
const HEAD_REQUESTS: &str = "requests: {cpu: \"16\", memory: 64Gi}\n";
const DRAIN_SPOT: &str = "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"91\"}";
const DRAIN_OD: &str = "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"90\"}";
const GROUP_OD: &str = "      - groupName: od\n        replicas: 2\n";
const IMAGE_HEAD: &str = "              image: rayproject/ray:2.60.0-py312-gpu\n";
const IMAGE_WORKER: &str = "                image: rayproject/ray:2.60.0-py312-gpu\n";
const TEN_GROUPS: &str = "    workerGroupSpecs:\n      - {groupName: g1}\n      - {groupName: g2}\n      - {groupName: g3}\n      \
    - {groupName: g4}\n      - {groupName: g5}\n      - {groupName: g6}\n      - {groupName: g7}\n      - {groupName: g8}\n";
const NINE_MORE: &str = "    workerGroupSpecs:\n      - {groupName: h1}\n      - {groupName: h2}\n      - {groupName: h3}\n      \
    - {groupName: h4}\n      - {groupName: h5}\n      - {groupName: h6}\n      - {groupName: h7}\n      - {groupName: h8}\n";
const EMPTY_GROUPS: &[&str] = &["kueue-range", "no-pool-for-group", "output-on-pod-disk"];

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // Files.
    case("unreadable", &[("kind: Namespace", "kind: [Namespace")]),
    case("duplicate-object", &[("metadata: {name: high}", "metadata: {name: high}\n---\napiVersion: kueue.x-k8s.io/v1beta1\nkind: WorkloadPriorityClass\nmetadata: {name: high}")]),
    case("placeholder", &[("role: nodes", "role: $NODE_ROLE")])
        .but(&[("python train.py --checkpoint-dir=/shared/checkpoints", "$COMMAND"), ("dashboard-host: 0.0.0.0", "redis-password: $REDIS_PASSWORD")]),
    case("not-a-string", &[("num-cpus: \"0\"", "num-cpus: 0")]),
    case("unknown-field", &[("  backoffLimit: 2\n", "  backofLimit: 2\n")]),
    case("secret-in-manifest", &[(DRAIN_OD, "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"90\"}\n                  - {name: WANDB_API_KEY, value: abc}")])
        .but(&[(DRAIN_OD, "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"90\"}\n                  - {name: WANDB_API_KEY, valueFrom: {secretKeyRef: {name: wandb, key: key}}}")]),

    // RayJob.
    case("name-too-long", &[("solar-8b-1", "solar-8b-with-a-name-that-goes-on-and-on-and-on-1")])
        .but(&[("solar-8b-1", "solar-8b-with-a-name-that-has-47-characters---1")]),
    case("name-not-dns", &[("solar-8b-1", "8b-solar")]),
    case("api-v1alpha1", &[("ray.io/v1\nkind: RayJob", "ray.io/v1alpha1\nkind: RayJob")]),
    case("submission-mode-unknown", &[("HTTPMode", "HTTPModee")]),
    case("sidecar-mode", &[("HTTPMode", "SidecarMode")]),
    case("sidecar-mode-conflict", &[("submissionMode: HTTPMode", "submissionMode: SidecarMode\n  submitterConfig: {backoffLimit: 10}")]).also(&["sidecar-mode"]),
    case("submitter-on-spot", &[("submissionMode: HTTPMode", "submissionMode: K8sJobMode\n  submitterConfig: {backoffLimit: 10}\n  submitterPodTemplate: {spec: {nodeSelector: {karpenter.sh/capacity-type: spot}}}")])
        .but(&[("submissionMode: HTTPMode", "submissionMode: K8sJobMode\n  submitterPodTemplate: {spec: {nodeSelector: {karpenter.sh/capacity-type: on-demand}}}")]),
    case("submitter-backoff-low", &[("  submissionMode: HTTPMode\n", "")])
        .but(&[("submissionMode: HTTPMode", "submitterConfig: {backoffLimit: 10}")]),
    case("entrypoint-resources", &[("  backoffLimit: 2\n", "  backoffLimit: 2\n  entrypointNumCpus: 1\n")])
        .but(&[("  backoffLimit: 2\n", "  backoffLimit: 2\n  entrypointNumCpus: 1\n  entrypointResources: '{\"head\": 1}'\n"), ("num-cpus: \"0\"", "num-cpus: \"0\", resources: '\"{\\\"head\\\": 1}\"'")]),
    case("pre-running-deadline-missing", &[("  preRunningDeadlineSeconds: 3600\n", "")]),
    case("pre-running-deadline-short", &[("preRunningDeadlineSeconds: 3600", "preRunningDeadlineSeconds: 300")]),
    case("active-deadline-order", &[("  backoffLimit: 2\n", "  activeDeadlineSeconds: 3600\n")])
        .but(&[("  backoffLimit: 2\n", "  activeDeadlineSeconds: 864000\n")]),
    case("active-deadline-final", &[("  backoffLimit: 2\n", "  backoffLimit: 2\n  activeDeadlineSeconds: 864000\n")]),
    case("backoff-high", &[("  backoffLimit: 2\n", "  backoffLimit: 20\n")]),
    case("interactive-backoff", &[("HTTPMode", "InteractiveMode")])
        .but(&[("HTTPMode", "InteractiveMode"), ("  backoffLimit: 2\n", "")]),
    case("shutdown-missing", &[(QUEUE, ""), (SHUTDOWN, ""), (TTL, "")])
        .but(&[(QUEUE, ""), (SHUTDOWN, "  deletionStrategy: {deletionRules: [{policy: DeleteCluster, condition: {jobStatus: FAILED}}]}\n"), (TTL, "")]),
    case("shutdown-missing-kueue", &[(SHUTDOWN, ""), (TTL, "")]),
    case("deletion-rules-kueue", &[(SHUTDOWN, "  deletionStrategy: {deletionRules: [{policy: DeleteCluster, condition: {jobStatus: FAILED}}]}\n"), (TTL, "")]).also(&["shutdown-missing-kueue"]),
    case("deletion-rules-with-shutdown", &[(QUEUE, ""), (TTL, "  deletionStrategy: {deletionRules: [{policy: DeleteCluster, condition: {jobStatus: FAILED}}]}\n")]),
    case("ttl-without-shutdown", &[(QUEUE, ""), (SHUTDOWN, "")]).also(&["shutdown-missing"]),
    case("ttl-keeps-gpus", &[(TTL, "  ttlSecondsAfterFinished: 3600\n")]),
    case("suspend-without-shutdown", &[(QUEUE, ""), (SHUTDOWN, "  suspend: true\n"), (TTL, "")]).also(&["shutdown-missing"]),
    case("cluster-selector-conflict", &[(QUEUE, ""), (TTL, "  clusterSelector: {ray.io/cluster: prompt}\n")]),
    case("managed-by-unknown", &[(TTL, "  managedBy: me\n")]).but(&[(TTL, "  managedBy: kueue.x-k8s.io/multikueue\n")]),
    case("runtime-env-invalid", &[("    env_vars: {HF_HOME: /shared/hf}\n", "    env_vars: [\n")]),
    case("runtime-env-installs", &[("    env_vars: {HF_HOME: /shared/hf}\n", "    pip: [transformers]\n"), ("replicas: 2\n        minReplicas: 2\n        maxReplicas: 2", "replicas: 20\n        minReplicas: 20\n        maxReplicas: 20")])
        .also(&["queue-too-small"])
        .but(&[("    env_vars: {HF_HOME: /shared/hf}\n", "    pip: [transformers]\n")]),

    // The cluster.
    case("ray-version-mismatch", &[(IMAGE_HEAD, "              image: rayproject/ray:2.59.1\n")])
        .but(&[(IMAGE_HEAD, "              image: acme/train:17\n")]),
    case("ray-version-missing", &[("    rayVersion: \"2.60.0\"\n    authOptions: {mode: token}\n", "")]).also(&["token-auth-off"]),
    case("token-auth-off", &[("    authOptions: {mode: token}\n", "")])
        .but(&[("    authOptions: {mode: token}\n", ""), (IMAGE_HEAD, "              image: rayproject/ray:2.60.0-py312-gpu\n              env: [{name: RAY_AUTH_MODE, value: token}]\n")]),
    case("token-auth-version", &[("    rayVersion: \"2.60.0\"\n", "    rayVersion: \"2.51.0\"\n"), (IMAGE_HEAD, "              image: acme/a:1\n"), (IMAGE_WORKER, "                image: acme/a:1\n"), (IMAGE_WORKER, "                image: acme/a:1\n")]),
    case("k8s-token-auth", &[("authOptions: {mode: token}", "authOptions: {mode: token, enableK8sTokenAuth: true}")])
        .but(&[("authOptions: {mode: token}\n  enableInTree", "authOptions: {mode: token, enableK8sTokenAuth: true}\n  enableInTree")]),
    case("min-max-without-autoscaler", &[(QUEUE, ""), RANGE]).but(&[(QUEUE, ""), RANGE, ("python train.py", "eagleray train run.yaml")]),
    case("replicas-out-of-range", &[("        replicas: 2\n", "        replicas: 3\n")]).also(&["kueue-range", "min-max-without-autoscaler"]),
    case("autoscaler-fixed-gang", &[(QUEUE, ""), ("    authOptions: {mode: token}\n", "    authOptions: {mode: token}\n    enableInTreeAutoscaling: true\n")]),
    case("autoscaler-kueue", &[("    authOptions: {mode: token}\n", "    authOptions: {mode: token}\n    enableInTreeAutoscaling: true\n")]).also(&["autoscaler-fixed-gang"])
        .but(&[("    authOptions: {mode: token}\n", "    authOptions: {mode: token}\n    enableInTreeAutoscaling: true\n"), ("  labels: {kueue", "  annotations: {kueue.x-k8s.io/elastic-job: \"true\"}\n  labels: {kueue")]),
    case("autoscaler-restart-policy", &[("restartPolicy: Never", "restartPolicy: Always")]),
    case("worker-restart-policy", &[("restartPolicy: Always", "restartPolicy: OnFailure")]).but(&[("            restartPolicy: Always\n", "")]),
    case("gcs-ft-in-job", &[("    authOptions: {mode: token}\n", "    authOptions: {mode: token}\n    gcsFaultToleranceOptions: {redisAddress: \"redis:6379\"}\n")]),
    case("gcs-ft-namespace-shared", &[("    authOptions: {mode: token}\n", "    authOptions: {mode: token}\n    gcsFaultToleranceOptions: {redisAddress: \"rediss://redis:6379\", externalStorageNamespace: prompt}\n")]).also(&["gcs-ft-in-job"]),
    case("redis-address-env", &[(IMAGE_HEAD, "              image: rayproject/ray:2.60.0-py312-gpu\n              env: [{name: RAY_REDIS_ADDRESS, value: \"redis:6379\"}]\n")]),
    case("ray-start-params-labels", &[("rayStartParams: {}", "rayStartParams: {labels: a=b}")]),
    case("resources-twice", &[("    headGroupSpec:\n", "    headGroupSpec:\n      resources: {CPU: \"0\"}\n")]),
    case("group-name-duplicate", &[("groupName: spot-a", "groupName: od")]),
    case("group-name-invalid", &[("groupName: od", "groupName: On_Demand")]),
    case("multi-host-replica", &[(GROUP_OD, "      - groupName: od\n        numOfHosts: 2\n        replicas: 2\n")]),
    case("ray-container-not-first", &[("containers:\n              - name: ray-worker", "containers:\n              - name: logs\n                image: acme/logs:1\n              - name: ray-worker")])
        .also(&["output-on-pod-disk"]),
    case("limits-missing", &[("limits: {cpu: \"180\", memory: 1800Gi, nvidia.com/gpu: 8,", "limits: {nvidia.com/gpu: 8,")]),
    case("requests-differ-from-limits", &[("requests: {cpu: \"180\", memory: 1800Gi,", "requests: {cpu: \"90\", memory: 1800Gi,")]),
    case("login-shell", &[(IMAGE_HEAD, "              image: rayproject/ray:2.60.0-py312-gpu\n              command: [/bin/bash, -lc, --]\n")])
        .but(&[(IMAGE_HEAD, "              image: rayproject/ray:2.60.0-py312-gpu\n              command: [/bin/bash, -c, --]\n              args: [ulimit -l unlimited]\n")]),
    case("ray-not-last-process", &[(IMAGE_HEAD, "              image: rayproject/ray:2.60.0-py312-gpu\n              command: [bash, -c]\n              args: [\"ray start --head; sleep infinity\"]\n"), ("  labels: {kueue", "  annotations: {ray.io/overwrite-container-cmd: \"true\"}\n  labels: {kueue")])
        .but(&[(IMAGE_HEAD, "              image: rayproject/ray:2.60.0-py312-gpu\n              command: [bash, -c]\n              args: [\"ulimit -n 65536; exec ray start --head --block\"]\n"), ("  labels: {kueue", "  annotations: {ray.io/overwrite-container-cmd: \"true\"}\n  labels: {kueue")]),

    // Placement.
    case("head-on-spot", &[("nodeSelector: {karpenter.sh/capacity-type: on-demand, karpenter.sh/nodepool: heads}", "nodeSelector: {karpenter.sh/capacity-type: spot}")])
        .also(&["no-pool-for-group"]),
    case("head-num-cpus", &[("num-cpus: \"0\", ", "")]),
    case("head-too-small", &[(HEAD_REQUESTS, "requests: {cpu: \"4\", memory: 16Gi}\n"), (HEAD_LIMITS, "limits: {cpu: \"4\", memory: 16Gi}")]),
    case("head-too-small-for-nodes", &[("replicas: 2\n        minReplicas: 2\n        maxReplicas: 2", "replicas: 120\n        minReplicas: 120\n        maxReplicas: 120")])
        .also(&["queue-too-small"]),
    case("head-disruptable", &[("          annotations: {karpenter.sh/do-not-disrupt: \"true\"}\n", "")])
        .but(&[("          annotations: {karpenter.sh/do-not-disrupt: \"true\"}\n", "          annotations: {gke-gcsfuse/volumes: \"true\"}\n")]),
    case("do-not-disrupt-on-cr", &[("  labels: {kueue", "  annotations: {karpenter.sh/do-not-disrupt: \"true\"}\n  labels: {kueue")]),
    case("do-not-disrupt-on-spot", &[("          spec:\n            nodeSelector: {karpenter.sh/nodepool: p5-spot-a}", "            annotations: {karpenter.sh/do-not-disrupt: \"true\"}\n          spec:\n            nodeSelector: {karpenter.sh/nodepool: p5-spot-a}")])
        .but(&[("          spec:\n            nodeSelector: {karpenter.sh/nodepool: p5-spot-a}", "            annotations: {karpenter.sh/do-not-disrupt: \"true\"}\n          spec:\n            nodeSelector: {karpenter.sh/nodepool: p5-spot-a}"),
            ("      taints: [{key: nvidia.com/gpu, effect: NoSchedule}, {key: llm/spot", "      terminationGracePeriod: 130s\n      taints: [{key: nvidia.com/gpu, effect: NoSchedule}, {key: llm/spot")]),
    case("grace-shorter-than-drain", &[("terminationGracePeriodSeconds: 110", "terminationGracePeriodSeconds: 60")]),
    case("drain-timeout-short", &[(DRAIN_SPOT, "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"20\"}")]),
    case("grace-over-notice", &[("terminationGracePeriodSeconds: 111", "terminationGracePeriodSeconds: 300")]),
    case("group-spans-zones", &[("operator: In, values: [us-east-1a]", "operator: In, values: [us-east-1a, us-east-1c]")]),
    case("group-mixes-instances", &[("values: [p5.48xlarge]}\n        - {key: karpenter.sh/capacity-type, operator: In, values: [reserved", "values: [p5.48xlarge, p5e.48xlarge]}\n        - {key: karpenter.sh/capacity-type, operator: In, values: [reserved")]),
    case("no-pool-for-group", &[("            tolerations: [{key: nvidia.com/gpu, operator: Exists}]\n", "")]),
    case("host-network", &[(SPOT_TEMPLATE, "hostNetwork: true\n            nodeSelector: {karpenter.sh/nodepool: p5-spot-a}")]),
    case("cost-labels-missing", &[("            labels: {team: nlp, sidecar.istio.io/inject: \"false\"}\n", "            labels: {sidecar.istio.io/inject: \"false\"}\n")]),
    case("istio-injection", &[("istio-injection: disabled", "istio-injection: enabled")])
        .but(&[("istio-injection: disabled", "istio-injection: enabled"), ("metadata: {name: prompt, namespace: training}", "metadata: {name: prompt, namespace: other}")]),

    // The network.
    case("efa-more-than-instance", &[("nvidia.com/gpu: 8, vpc.amazonaws.com/efa: 32}\n                volumeMounts", "nvidia.com/gpu: 8, vpc.amazonaws.com/efa: 64}\n                volumeMounts")]),
    case("efa-fewer-than-instance", &[("limits: {cpu: \"180\", memory: 1800Gi, nvidia.com/gpu: 8, vpc.amazonaws.com/efa: 32}", "limits: {cpu: \"180\", memory: 1800Gi, nvidia.com/gpu: 8, vpc.amazonaws.com/efa: 4}")]),
    case("efa-missing", &[("limits: {cpu: \"181\", memory: 1801Gi, nvidia.com/gpu: 8, vpc.amazonaws.com/efa: 32}", "limits: {cpu: \"181\", memory: 1801Gi, nvidia.com/gpu: 8}")]),
    case("gpu-more-than-instance", &[("limits: {cpu: \"181\", memory: 1801Gi, nvidia.com/gpu: 8", "limits: {cpu: \"181\", memory: 1801Gi, nvidia.com/gpu: 16")]),
    case("gpu-fewer-than-instance", &[("limits: {cpu: \"181\", memory: 1801Gi, nvidia.com/gpu: 8", "limits: {cpu: \"181\", memory: 1801Gi, nvidia.com/gpu: 4")]),
    case("efa-hugepages", &[("                  - {name: FI_EFA_USE_HUGE_PAGE, value: \"0\"}\n", "")]),
    case("shm-small", &[("            volumes:\n", "            volumes:\n              - {name: shm, emptyDir: {}}\n"), ("volumeMounts: [", "volumeMounts: [{name: shm, mountPath: /dev/shm}, ")])
        .but(&[("            volumes:\n", "            volumes:\n              - {name: shm, emptyDir: {medium: Memory, sizeLimit: 64Gi}}\n"), ("volumeMounts: [", "volumeMounts: [{name: shm, mountPath: /dev/shm}, ")]),
    case("efa-stale-env", &[(DRAIN_OD, "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"90\"}\n                  - {name: NCCL_PROTO, value: simple}")]),
    case("efa-public-ip", &[("associatePublicIPAddress: false", "associatePublicIPAddress: true")]),
    case("efa-interfaces", &[("{networkCardIndex: 1, deviceIndex: 1,", "{networkCardIndex: 0, deviceIndex: 0,")]),
    case("efa-security-group", &[("  egressRules: [{ipProtocol: \"-1\", userIDGroupPairs: [{groupRef: {from: {name: efa}}}]}]\n", "  egressRules: [{ipProtocol: \"-1\", ipRanges: [{cidrIP: 0.0.0.0/0}]}]\n")]),

    // Volumes and budgets.
    case("rwo-volume", &[("ReadWriteMany", "ReadWriteOnce")]),
    case("checkpoint-on-mountpoint", &[("---\napiVersion: policy/v1", "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: bucket}\nspec: {claimRef: {name: lustre, namespace: training}, csi: {driver: s3.csi.aws.com}}\n---\napiVersion: policy/v1")])
        .but(&[("/shared/checkpoints", "s3://bucket/checkpoints"), ("---\napiVersion: policy/v1", "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: bucket}\nspec: {claimRef: {name: lustre, namespace: training}, csi: {driver: s3.csi.aws.com}}\n---\napiVersion: policy/v1")]),
    case("output-on-pod-disk", &[("--checkpoint-dir=/shared/checkpoints", "--checkpoint-dir /data/checkpoints")])
        .but(&[("--checkpoint-dir=/shared/checkpoints", "--checkpoint-dir s3://bucket/checkpoints")]),
    case("pdb-blocks-eviction", &[("maxUnavailable: 100%", "maxUnavailable: 0")])
        .but(&[("maxUnavailable: 100%", "maxUnavailable: 0"), ("ray.io/node-type: worker", "app: web")]),

    // Karpenter.
    case("karpenter-api-old", &[("karpenter.k8s.aws/v1\n", "karpenter.k8s.aws/v1beta1\n")]),
    case("expire-after", &[("      expireAfter: Never\n", "")]),
    case("auto-mode-expiry", &[("{group: karpenter.k8s.aws, kind: EC2NodeClass, name: gpus}", "{group: eks.amazonaws.com, kind: NodeClass, name: default}")])
        .but(&[("{group: karpenter.k8s.aws, kind: EC2NodeClass, name: gpus}", "{group: eks.amazonaws.com, kind: NodeClass, name: default}"), ("  backoffLimit: 2\n", "  activeDeadlineSeconds: 864000\n")]),
    case("consolidation-underutilized", &[("consolidationPolicy: WhenEmpty,", "consolidationPolicy: WhenEmptyOrUnderutilized,")]),
    case("drift-budget-missing", &[(", budgets: [{nodes: \"0\"}]", "")]),
    case("pool-limits-missing", &[("  limits: {nvidia.com/gpu: 64}\n", "")]),
    case("pool-mixes-capacity", &[("operator: In, values: [spot]", "operator: In, values: [spot, on-demand]")]),
    case("spot-pool-zones", &[("\n        - {key: topology.kubernetes.io/zone, operator: In, values: [us-east-1b]}", "")]),
    case("pool-instances-open", &[("        - {key: node.kubernetes.io/instance-type, operator: In, values: [p5.48xlarge]}\n", "")]),
    case("pool-instances-differ", &[("values: [p5.48xlarge]}\n        - {key: karpenter.sh/capacity-type, operator: In, values: [reserved", "values: [p5.48xlarge, p5en.48xlarge]}\n        - {key: karpenter.sh/capacity-type, operator: In, values: [reserved")])
        .also(&["group-mixes-instances"]),
    case("pool-untainted", &[("      taints: [{key: nvidia.com/gpu, effect: NoSchedule}]\n", "")]),
    case("termination-grace-below-drain", &[("      taints: [{key: nvidia.com/gpu, effect: NoSchedule}]\n", "      terminationGracePeriod: 60s\n      taints: [{key: nvidia.com/gpu, effect: NoSchedule}]\n")])
        .but(&[("      taints: [{key: nvidia.com/gpu, effect: NoSchedule}]\n", "      terminationGracePeriod: 2h\n      taints: [{key: nvidia.com/gpu, effect: NoSchedule}]\n")]),
    case("termination-grace-defeats-do-not-disrupt", &[("      taints: [{key: llm/head", "      terminationGracePeriod: 2h\n      taints: [{key: llm/head")]),
    case("ami-floating", &[("al2023@v20261101", "al2023@latest")]),
    case("role-and-profile", &[("  role: nodes\n", "  role: nodes\n  instanceProfile: nodes\n")]),
    case("root-volume-small", &[("volumeSize: 500Gi", "volumeSize: 50Gi")]),
    case("instance-store-unused", &[("  instanceStorePolicy: RAID0\n", "")]),
    case("imds-v1", &[("httpTokens: required", "httpTokens: optional")]),
    case("hop-limit", &[("      hostNetwork: true\n", "")])
        .but(&[("      hostNetwork: true\n", ""), ("{httpTokens: required}", "{httpTokens: required, httpPutResponseHopLimit: 2}"), ("securityGroupSelectorTerms: [{name: heads}]", "metadataOptions: {httpPutResponseHopLimit: 2}\n  securityGroupSelectorTerms: [{name: heads}]")]),
    case("node-class-missing", &[("name: heads}\n      taints", "name: head}\n      taints")]),

    // Kueue.
    case("kueue-pod-sets", &[("    workerGroupSpecs:\n", TEN_GROUPS), ("    workerGroupSpecs:\n", NINE_MORE)]).also(EMPTY_GROUPS),
    case("kueue-pod-sets-before-0-19", &[("    workerGroupSpecs:\n", TEN_GROUPS)]).also(EMPTY_GROUPS),
    case("kueue-label-on-pods", &[("            labels: {team: nlp,", "            labels: {kueue.x-k8s.io/queue-name: research, team: nlp,")]),
    case("kueue-group-reserved", &[("groupName: od", "groupName: head")]),
    case("kueue-range", &[RANGE]).also(&["min-max-without-autoscaler"])
        .but(&[RANGE, ("  labels: {kueue", "  annotations: {kueue.x-k8s.io/elastic-job: \"true\"}\n  labels: {kueue")]),
    case("queue-missing", &[("queue-name: research", "queue-name: reserch")]).but(&[(QUEUE, "")]),
    case("cluster-queue-missing", &[("{clusterQueue: gpus}", "{clusterQueue: gpu}")]),
    case("queue-uncovered-resource", &[("nvidia.com/gpu, vpc.amazonaws.com/efa]", "nvidia.com/gpu]")]),
    case("queue-too-small", &[("{name: nvidia.com/gpu, nominalQuota: 64}", "{name: nvidia.com/gpu, nominalQuota: 16}")])
        .but(&[("{name: nvidia.com/gpu, nominalQuota: 64}", "{name: nvidia.com/gpu, nominalQuota: 16}"), ("  resourceGroups:\n", "  cohortName: all\n  resourceGroups:\n")]),
    case("flavor-missing", &[("        - name: p5\n", "        - name: p5e\n")]),
    case("tas-scale-from-zero", &[("  nodeLabels: {karpenter.sh/capacity-type: on-demand}", "  topologyName: racks\n  nodeLabels: {karpenter.sh/capacity-type: on-demand}")])
        .but(&[("  nodeLabels: {karpenter.sh/capacity-type: on-demand}", "  topologyName: racks\n  nodeLabels: {karpenter.sh/capacity-type: reserved}")]),
    case("tas-on-spot", &[("  nodeLabels: {karpenter.sh/capacity-type: on-demand}", "  topologyName: racks\n  nodeLabels: {karpenter.sh/capacity-type: spot}")]).also(&["tas-scale-from-zero"]),
    case("pods-ready-timeout-short", &[(", timeout: 60m", "")]),
    case("recovery-timeout-short", &[("recoveryTimeout: 45m", "recoveryTimeout: 3m")]),
    case("priority-class-missing", &[("priority-class: high", "priority-class: higher")]),

    // Leftovers.
    case("leftover-rank-env", &[(DRAIN_OD, "- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: \"90\"}\n                  - {name: WORLD_SIZE, value: \"32\"}")]),
    case("leftover-launcher", &[("python train.py", "/usr/local/bin/torchrun --nproc-per-node 8 train.py")]),
    case("leftover-labels", &[("team: nlp}\nspec:", "team: nlp, training.kubeflow.org/job-name: solar}\nspec:")]),
    case("leftover-port", &[("                env:\n", "                ports: [{containerPort: 23456}]\n                env:\n")]),
    case("leftover-master-wait", &[("            restartPolicy: Always\n", "            restartPolicy: Always\n            initContainers: [{name: wait, image: busybox, command: [sh, -c, \"until nslookup solar-master-0; do sleep 1; done\"]}]\n")]),
    case("leftover-same-job", &[("---\napiVersion: policy/v1", "---\napiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {name: solar-8b-1, namespace: training}\n---\napiVersion: policy/v1")]),
];
