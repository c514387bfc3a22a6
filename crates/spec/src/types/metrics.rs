//! Where the figures of each step go, beside the ledger.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the figures of each step go, beside the ledger.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Event files in `tensorboard` inside a local `store`.
    pub tensorboard: bool,
    /// A run of `MLflow`; needs `pip install 'eagleray[mlflow]'`.
    pub mlflow: Option<Mlflow>,
    /// A run of Weights & Biases; needs `pip install 'eagleray[wandb]'`.
    pub wandb: Option<Wandb>,
    /// The newest figures at `http://HOST:PORT/metrics`; needs `pip install 'eagleray[prometheus]'`.
    pub prometheus: Option<Prometheus>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { tensorboard: true, mlflow: None, wandb: None, prometheus: None }
    }
}

/// A run of `MLflow`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mlflow {
    /// The experiment; that of the run's name where it is left out.
    pub experiment: Option<String>,
    /// A server, a database or a folder, as `MLflow` writes it; where it is left out `MLFLOW_TRACKING_URI`, else
    /// `mlflow.db` inside a local `store`.
    pub tracking_uri: Option<String>,
}

/// A run of Weights & Biases.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wandb {
    /// The project; that of the run's name where it is left out.
    pub project: Option<String>,
    /// The team or user; the API key's own where it is left out.
    pub entity: Option<String>,
    /// Whether figures are sent or kept in `wandb` inside a local `store`; `WANDB_MODE` where it is left out.
    pub mode: Option<WandbMode>,
}

/// Whether figures are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WandbMode {
    /// To the server of `WANDB_BASE_URL`, with the key of `WANDB_API_KEY`.
    Online,
    /// To files that `wandb sync` sends later.
    Offline,
}

/// An endpoint for Prometheus, on the node of the driver.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prometheus {
    /// The port; with 0 a free one, which is said at the start and stands in the ledger.
    pub port: u16,
    /// The address to listen on; `0.0.0.0` for all of the node's.
    pub host: String,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self { port: 0, host: "127.0.0.1".into() }
    }
}
