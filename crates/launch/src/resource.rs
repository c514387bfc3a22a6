//! The kinds of objects that a launch consists of, waits for, or is told of.

use kube::core::ApiResource;
use serde_json::Value;

/// Where the API server keeps a kind.
///
/// A table instead of discovery: an account that may do little more than a launch needs cannot ask what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `ray.io`; empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `RayJob`.
    pub kind: &'static str,
    /// `rayjobs`.
    pub plural: &'static str,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
}

macro_rules! resources {
    ($($(#[doc = $doc:literal])* $name:ident = $group:literal $version:literal $kind:literal $plural:literal $namespaced:literal;)*) => {
        $($(#[doc = $doc])*
        pub const $name: Resource =
            Resource { group: $group, version: $version, kind: $kind, plural: $plural, namespaced: $namespaced };)*
        const ALL: &[Resource] = &[$($name),*];
    };
}

resources! {
    /// A launch.
    RAY_JOB = "ray.io" "v1" "RayJob" "rayjobs" true;
    /// The cluster of a launch.
    RAY_CLUSTER = "ray.io" "v1" "RayCluster" "rayclusters" true;
    /// Head and workers.
    POD = "" "v1" "Pod" "pods" true;
    /// What the controllers say of objects.
    EVENT = "" "v1" "Event" "events" true;
    /// Machines.
    NODE = "" "v1" "Node" "nodes" false;
    /// The token of a cluster.
    SECRET = "" "v1" "Secret" "secrets" true;
    /// The spec of a launch.
    CONFIG_MAP = "" "v1" "ConfigMap" "configmaps" true;
    /// Who the pods are.
    SERVICE_ACCOUNT = "" "v1" "ServiceAccount" "serviceaccounts" true;
    /// Where launches are.
    NAMESPACE = "" "v1" "Namespace" "namespaces" false;
    /// Who may reach Ray.
    NETWORK_POLICY = "networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" true;
    /// What protects the head.
    POD_DISRUPTION_BUDGET = "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" true;
    /// That of the head.
    PRIORITY_CLASS = "scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses" false;
    /// What the head may do.
    ROLE = "rbac.authorization.k8s.io" "v1" "Role" "roles" true;
    /// Who may do it.
    ROLE_BINDING = "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" true;
    /// Machines that Karpenter may make.
    NODE_POOL = "karpenter.sh" "v1" "NodePool" "nodepools" false;
    /// Machines that Karpenter makes.
    NODE_CLAIM = "karpenter.sh" "v1" "NodeClaim" "nodeclaims" false;
    /// How machines on EC2 are made.
    EC2_NODE_CLASS = "karpenter.k8s.aws" "v1" "EC2NodeClass" "ec2nodeclasses" false;
    /// What Kueue knows of a launch.
    WORKLOAD = "kueue.x-k8s.io" "v1beta2" "Workload" "workloads" true;
    /// Kinds of machines that Kueue counts.
    RESOURCE_FLAVOR = "kueue.x-k8s.io" "v1beta2" "ResourceFlavor" "resourceflavors" false;
    /// Quota.
    CLUSTER_QUEUE = "kueue.x-k8s.io" "v1beta2" "ClusterQueue" "clusterqueues" false;
    /// The quota of a namespace.
    LOCAL_QUEUE = "kueue.x-k8s.io" "v1beta2" "LocalQueue" "localqueues" true;
    /// Operators.
    DEPLOYMENT = "apps" "v1" "Deployment" "deployments" true;
    /// Device plugins.
    DAEMON_SET = "apps" "v1" "DaemonSet" "daemonsets" true;
    /// Kinds that Kubernetes does not bring.
    DEFINITION = "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" false;
    /// What a namespace may take together.
    RESOURCE_QUOTA = "" "v1" "ResourceQuota" "resourcequotas" true;
    /// What a pod of a namespace may take.
    LIMIT_RANGE = "" "v1" "LimitRange" "limitranges" true;
    /// Ray Serve's clusters.
    RAY_SERVICE = "ray.io" "v1" "RayService" "rayservices" true;
    /// How Kueue orders launches.
    WORKLOAD_PRIORITY_CLASS = "kueue.x-k8s.io" "v1beta2" "WorkloadPriorityClass" "workloadpriorityclasses" false;
    /// Volumes that pods ask for.
    CLAIM = "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" true;
    /// Volumes.
    VOLUME = "" "v1" "PersistentVolume" "persistentvolumes" false;
    /// What an older Karpenter left.
    PROVISIONER = "karpenter.sh" "v1alpha5" "Provisioner" "provisioners" false;
    /// Groups of rules that a controller of AWS makes.
    SECURITY_GROUP = "ec2.services.k8s.aws" "v1alpha1" "SecurityGroup" "securitygroups" true;
    /// The namespace of somebody in Kubeflow.
    PROFILE = "kubeflow.org" "v1" "Profile" "profiles" false;
    /// Jobs of Kubeflow's training operator.
    PYTORCH_JOB = "kubeflow.org" "v1" "PyTorchJob" "pytorchjobs" true;
    /// Others of them.
    TF_JOB = "kubeflow.org" "v1" "TFJob" "tfjobs" true;
    /// Others of them.
    JAX_JOB = "kubeflow.org" "v1" "JAXJob" "jaxjobs" true;
    /// Jobs of Kubeflow's MPI operator.
    MPI_JOB = "kubeflow.org" "v2beta1" "MPIJob" "mpijobs" true;
    /// Jobs of Kubeflow's Trainer.
    TRAIN_JOB = "trainer.kubeflow.org" "v1alpha1" "TrainJob" "trainjobs" true;
    /// What those of a namespace have in common.
    TRAINING_RUNTIME = "trainer.kubeflow.org" "v1alpha1" "TrainingRuntime" "trainingruntimes" true;
    /// What all of them may have in common.
    CLUSTER_TRAINING_RUNTIME =
        "trainer.kubeflow.org" "v1alpha1" "ClusterTrainingRuntime" "clustertrainingruntimes" false;
    /// Whether Istio demands mutual TLS.
    PEER_AUTHENTICATION = "security.istio.io" "v1" "PeerAuthentication" "peerauthentications" true;
}

impl Resource {
    /// The resource of an object, by its `apiVersion` and `kind`.
    pub fn of(object: &Value) -> Option<Self> {
        let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        ALL.iter().find(|known| known.api_version() == version && known.kind == kind).copied()
    }

    /// `ray.io/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn api(&self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// The product that brings this kind to a cluster, where Kubernetes does not.
    pub(crate) fn brought_by(&self) -> Option<&'static str> {
        match self.group {
            "ray.io" => {
                Some("KubeRay (`helm install kuberay-operator kuberay/kuberay-operator --version 1.6.2`)")
            }
            "karpenter.sh" | "karpenter.k8s.aws" => Some("Karpenter, or EKS Auto Mode"),
            "kueue.x-k8s.io" => Some("Kueue"),
            "security.istio.io" => Some("Istio"),
            "kubeflow.org" => Some("Kubeflow's training operator"),
            "trainer.kubeflow.org" => Some("Kubeflow's Trainer"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_known_by_its_version_and_kind() {
        assert_eq!(Resource::of(&json!({"apiVersion": "ray.io/v1", "kind": "RayJob"})), Some(RAY_JOB));
        assert_eq!(Resource::of(&json!({"apiVersion": "v1", "kind": "ConfigMap"})), Some(CONFIG_MAP));
        assert_eq!(Resource::of(&json!({"apiVersion": "ray.io/v1alpha1", "kind": "RayJob"})), None);
        assert_eq!(Resource::of(&json!({})), None);
    }
}
