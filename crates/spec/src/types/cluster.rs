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
    /// Labels of everything that is made, for cost and search.
    #[serde(default)]
    pub labels: Named<String>,
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
