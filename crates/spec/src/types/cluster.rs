//! What to run on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Count, Named};

/// What to run on; on a laptop nothing is needed, an embedded Ray is started.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// The training processes, one accelerator each; a range makes the run elastic.
    pub workers: Count,
    /// A cluster on EKS.
    pub eks: Option<Eks>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { workers: Count::exactly(1), eks: None }
    }
}

/// A Ray cluster on EKS, made for this run.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eks {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The container image, with Ray and this program.
    pub image: String,
    /// The groups of training nodes; a number of nodes everywhere makes a gang, any range makes it elastic.
    pub groups: Vec<Group>,
    /// The nodes where text is tokenised.
    #[serde(default)]
    pub cpu: Option<Cpu>,
    /// Plain environment variables; secrets by reference only, in `env_from`.
    #[serde(default)]
    pub env: Named<String>,
    /// Environment variables out of secrets and config maps.
    #[serde(default)]
    pub env_from: Vec<EnvFrom>,
    /// Volumes of every training pod.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Merged into the templates of the worker pods, and linted like everything else.
    #[serde(default)]
    pub pod: serde_json::Map<String, serde_json::Value>,
    /// The `LocalQueue` of Kueue; left out without Kueue.
    #[serde(default)]
    pub queue: Option<String>,
    /// With a `queue` the `WorkloadPriorityClass` of Kueue, else the `PriorityClass` of the worker pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// As whom pods reach S3; the namespace's own account where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccount>,
    /// What Karpenter needs to make nodes; where it is left out, nodes that fit are somebody else's care.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub karpenter: Option<Karpenter>,
    /// Where the head of a long-lived cluster, `eagleray render --kind cluster`, keeps what it knows; runs, which go on
    /// from checkpoints, do not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// The version of `KubeRay` in the cluster.
    #[serde(default)]
    pub kuberay: KubeRay,
    /// Labels of everything that is made, for cost and search.
    #[serde(default)]
    pub labels: Named<String>,
}

/// As whom the pods of a run reach S3.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccount {
    /// Its name, which a Pod Identity association names.
    pub name: String,
    /// The IAM role, where its right comes by IRSA instead of Pod Identity: an ARN.
    #[serde(default)]
    pub role: Option<String>,
}

/// What Karpenter needs to make the nodes of a run.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Karpenter {
    /// The IAM role of the nodes: its name, no ARN.
    pub role: String,
    /// The value of the tag `karpenter.sh/discovery` on subnets and security groups.
    pub discovery: String,
    /// The image of the nodes, pinned: `al2023@v20261112` or `ami-…`.
    pub ami: String,
    /// The capacity reservations that groups of `capacity: reserved` use: `cr-…`.
    #[serde(default)]
    pub reservations: Vec<String>,
}

/// A Redis outside of the cluster, where the state of a long-lived head outlives it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Its address, without a password: `rediss://cache.example.com:6379`.
    pub address: String,
    /// The secret that holds its password, in the run's namespace; no password where it is left out.
    #[serde(default)]
    pub secret: Option<String>,
    /// The key of the password in the secret.
    #[serde(default = "redis_key")]
    pub key: String,
}

fn redis_key() -> String {
    "password".into()
}

/// The version of `KubeRay` in a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum KubeRay {
    /// 1.6.
    #[serde(rename = "1.6")]
    V1_6,
    /// 1.7.
    #[default]
    #[serde(rename = "1.7")]
    V1_7,
}

/// One group of equal nodes.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name: a DNS label.
    pub name: String,
    /// The EC2 instance type.
    pub instance: String,
    /// How the capacity is bought.
    #[serde(default)]
    pub capacity: Capacity,
    /// The availability zone; any where it is left out.
    #[serde(default)]
    pub zone: Option<String>,
    /// The nodes.
    pub nodes: Count,
}

/// How capacity is bought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// By the hour.
    #[default]
    OnDemand,
    /// Cheaper, and taken away with two minutes' notice.
    Spot,
    /// Out of a reservation.
    Reserved,
}

/// The nodes where text is tokenised.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// The EC2 instance type.
    pub instance: String,
    /// The nodes.
    pub nodes: Count,
}

/// Where environment variables come from: exactly one of `secret` and `config_map`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvFrom {
    /// The name of a secret.
    #[serde(default)]
    pub secret: Option<String>,
    /// The name of a config map.
    #[serde(default)]
    pub config_map: Option<String>,
}

/// A volume of a claim.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where it is mounted: an absolute path.
    pub mount: String,
    /// The persistent volume claim.
    pub claim: String,
}
